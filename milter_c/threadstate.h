/*
 * threadstate.h - makes a reused Python thread look new.
 *
 * The one file of the extension that knows Python; the engine does not know this file.
 */
#ifndef MLT_THREADSTATE_H
#define MLT_THREADSTATE_H

/*
 * Drops what the calling thread keeps in threading.local objects, as its end would do. Called
 * without the interpreter's lock held, as cffi calls everything. 1: done; 0: this interpreter does
 * not let us, and the thread should end instead.
 */
int mlt_threadstate_renew(void);

#endif
