/*
 * pool_accept.c - how the pool listens: which new connections it takes, and when it takes none.
 *
 * Knows nothing of what becomes of them: each is queued for a worker.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "pool.h"
#include "socket.h"

enum {
    ACCEPTS = 16,       /* connections accepted at once; other processes want some, too */
    LISTEN_AGAIN = 1000 /* ms until listening is tried again */
};

static mlt_pooled *new_pooled(mlt_pool *pool, int fd)
{
    mlt_pooled *one = calloc(1, sizeof *one);
    if (one == NULL)
        return NULL;
    mlt_connection_init(&one->connection, pool->server);
    one->connection.nonblocking = true;
    mlt_server_adopt(pool->server, &one->connection, fd);
    return one;
}

bool mlt_pool_listen(mlt_pool *pool)
{
    mlt_server *server = pool->server;
    if (pool->listening || pool->refused || pool->accept_again != 0 || mlt_server_stopping(server))
        return true;
    int fd = mlt_server_fd(server);
    bool room = mlt_server_has_room(server);
    if (room)
        pool->listening =
            0 == (pool->options.shared ? mlt_poller_add_shared(pool->poller, fd, server)
                                       : mlt_poller_add(pool->poller, fd, server, MLT_POLL_READ));
    /* Where there is no connection of ours whose end would have us look again. */
    if (!pool->listening && pool->open == 0) {
        pool->accept_again = pool->now + LISTEN_AGAIN;
        mlt_pool_end_wait(pool);
    }
    return pool->listening || !room;
}

void mlt_pool_listen_no_more(mlt_pool *pool)
{
    if (pool->listening)
        mlt_poller_remove(pool->poller, mlt_server_fd(pool->server));
    pool->listening = false;
}

void mlt_pool_hear_no_more(mlt_pool *pool)
{
    if (pool->waking)
        mlt_poller_remove(pool->poller, pool->server->wake[0]);
    pool->waking = false;
}

/* Accepts one. 0, or why not. The gate is held. */
static int accept_one(mlt_pool *pool)
{
    int fd = mlt_socket_accept(&pool->server->listener, false);
    if (fd < 0)
        return errno;
    mlt_pooled *one = new_pooled(pool, fd);
    if (one == NULL) {
        close(fd);
        return ENOMEM;
    }
    pool->server->pause = 0;
    pool->open++;
    mlt_pool_make_ready(pool, one);
    return 0;
}

bool mlt_pool_accept(mlt_pool *pool, char *notice)
{
    mlt_server *server = pool->server;
    int code = 0;
    notice[0] = '\0';
    pthread_mutex_lock(&server->gate);
    for (int i = 0; i < ACCEPTS && code == 0 && pool->listening; i++) {
        if (mlt_server_stopping(server) || mlt_server_fd(server) < 0)
            break;
        if (!mlt_server_has_room(server)) {
            mlt_pool_listen_no_more(pool);
            break;
        }
        code = accept_one(pool);
    }
    if (code == EINTR || code == ECONNABORTED || code == EAGAIN || code == EWOULDBLOCK)
        code = 0;
    if (code != 0) {
        pool->accept_again = mlt_socket_now() + mlt_server_accept_failed(server, code, notice);
        mlt_pool_listen_no_more(pool);
    }
    pthread_mutex_unlock(&server->gate);
    return notice[0] == '\0';
}

void mlt_pool_refuse(mlt_pool *pool)
{
    if (mlt_pool_is_copy(pool))
        return;
    mlt_server *server = pool->server;
    pthread_mutex_lock(&pool->lock);
    pool->refused = true;
    bool told = pool->listening && pool->options.shared;
    mlt_pool_listen_no_more(pool);
    pthread_mutex_lock(&server->gate);
    while (told && !mlt_server_stopping(server) && mlt_server_has_room(server)) {
        int code = accept_one(pool);
        told = code == 0 || code == EINTR || code == ECONNABORTED;
    }
    pthread_mutex_unlock(&server->gate);
    mlt_pool_hear_no_more(pool);
    mlt_pool_end_wait(pool);
    pthread_mutex_unlock(&pool->lock);
}
