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

static int is_new(const PyThreadState *state)
{
    if (state->dict != NULL && PyDict_Size(state->dict) > 0)
        return 0;
#if PY_VERSION_HEX >= 0x030D0000
    if (state->threading_local_key != NULL || state->threading_local_sentinel != NULL)
        return 0;
#endif
    return 1;
}

int mlt_threadstate_renew(void)
{
    /* Most filters keep nothing there, and the interpreter's lock costs more than a look. Only this
     * thread puts something in. */
    PyThreadState *state = PyGILState_GetThisThreadState();
    if (state != NULL && is_new(state))
        return 1;
    PyGILState_STATE lock = PyGILState_Ensure();
    PyObject *data = PyThreadState_GetDict();
    if (data != NULL)
        PyDict_Clear(data);
#if PY_VERSION_HEX >= 0x030D0000
    state = PyThreadState_Get();
    Py_CLEAR(state->threading_local_key);
    Py_CLEAR(state->threading_local_sentinel);
#endif
    PyGILState_Release(lock);
    return 1;
}

#endif
