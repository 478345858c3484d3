/*
 * threadstate.c - see threadstate.h.
 *
 * threading.local keeps a thread's data alive through one reference in its thread state, and the
 * interpreter drops that reference when the thread ends. Where it is depends on the version:
 * up to 3.12 in the dictionary of PyThreadState_GetDict(), from 3.13 in two fields that
 * PyThreadState_Clear() clears.
 */
#ifndef PYPY_VERSION
#include <Python.h>
#endif

#include "threadstate.h"

#if defined(PYPY_VERSION) || PY_VERSION_HEX >= 0x03100000

int mlt_threadstate_renew(void)
{
    return 0;
}

#else

int mlt_threadstate_renew(void)
{
    PyGILState_STATE lock = PyGILState_Ensure();
    PyObject *data = PyThreadState_GetDict();
    if (data != NULL)
        PyDict_Clear(data);
#if PY_VERSION_HEX >= 0x030D0000
    PyThreadState *state = PyThreadState_Get();
    Py_CLEAR(state->threading_local_key);
    Py_CLEAR(state->threading_local_sentinel);
#endif
    PyGILState_Release(lock);
    return 1;
}

#endif
