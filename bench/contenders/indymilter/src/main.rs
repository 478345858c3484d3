//! The filter on indymilter: indymilter SOCKET WORKLOAD.

use bytes::Bytes;
use indymilter::{
    Actions, Callbacks, Config, Context, ContextActions, EitherListener, EomContext,
    NegotiateContext, ProtoOpts, SocketInfo, Status,
};
use std::{env, ffi::CString, future, sync::OnceLock, time::Duration};
use tokio::net::{TcpListener, UnixListener};

static WORKLOAD: OnceLock<String> = OnceLock::new();

fn workload() -> &'static str {
    WORKLOAD.get().expect("set at the start")
}

/// What a callback answers that may be left without an answer.
fn go_on() -> Status {
    if workload() == "noreply" {
        Status::Noreply
    } else {
        Status::Continue
    }
}

fn see(cx: &mut Context<usize>, length: usize) {
    *cx.data.get_or_insert(0) += length;
}

async fn negotiate(cx: &mut NegotiateContext<usize>) -> Status {
    if workload() == "noreply" {
        cx.requested_opts |= ProtoOpts::NOREPLY_CONNECT
            | ProtoOpts::NOREPLY_HELO
            | ProtoOpts::NOREPLY_MAIL
            | ProtoOpts::NOREPLY_RCPT
            | ProtoOpts::NOREPLY_DATA
            | ProtoOpts::NOREPLY_HEADER
            | ProtoOpts::NOREPLY_EOH
            | ProtoOpts::NOREPLY_BODY
            | ProtoOpts::NOREPLY_UNKNOWN;
    }
    cx.requested_actions |= Actions::ADD_HEADER;
    Status::Continue
}

async fn connect(cx: &mut Context<usize>, hostname: CString, _: SocketInfo) -> Status {
    see(cx, hostname.as_bytes().len());
    go_on()
}

async fn helo(cx: &mut Context<usize>, name: CString) -> Status {
    see(cx, name.as_bytes().len());
    if workload() == "reject" {
        return Status::Reject;
    }
    go_on()
}

async fn envelope(cx: &mut Context<usize>, arguments: Vec<CString>) -> Status {
    see(cx, arguments[0].as_bytes().len());
    go_on()
}

async fn header(cx: &mut Context<usize>, name: CString, value: CString) -> Status {
    see(cx, name.as_bytes().len() + value.as_bytes().len());
    go_on()
}

async fn body(cx: &mut Context<usize>, chunk: Bytes) -> Status {
    see(cx, chunk.len());
    go_on()
}

async fn quiet(_: &mut Context<usize>) -> Status {
    go_on()
}

async fn eom(cx: &mut EomContext<usize>) -> Status {
    if workload() == "block" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let id = cx.macros.get(c"i").unwrap_or(c"-").to_owned();
    match cx.actions.add_header(c"X-Filter", id).await {
        Ok(()) => Status::Continue,
        Err(_) => Status::Tempfail,
    }
}

async fn nothing(_: &mut Context<usize>) -> Status {
    Status::Continue
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = env::args().collect();
    WORKLOAD.set(arguments[2].clone()).expect("set once");
    let (kind, place) = arguments[1]
        .split_once(':')
        .expect("unix:PATH or inet:PORT@HOST");
    let listener = if kind == "unix" {
        EitherListener::Unix(UnixListener::bind(place).expect("cannot listen"))
    } else {
        let (port, host) = place.split_once('@').expect("inet:PORT@HOST");
        let address = format!("{host}:{port}");
        EitherListener::Tcp(TcpListener::bind(address).await.expect("cannot listen"))
    };
    let callbacks = Callbacks::new()
        .on_negotiate(|cx, _, _| Box::pin(negotiate(cx)))
        .on_connect(|cx, hostname, socket| Box::pin(connect(cx, hostname, socket)))
        .on_helo(|cx, name| Box::pin(helo(cx, name)))
        .on_mail(|cx, arguments| Box::pin(envelope(cx, arguments)))
        .on_rcpt(|cx, arguments| Box::pin(envelope(cx, arguments)))
        .on_data(|cx| Box::pin(quiet(cx)))
        .on_header(|cx, name, value| Box::pin(header(cx, name, value)))
        .on_eoh(|cx| Box::pin(quiet(cx)))
        .on_body(|cx, chunk| Box::pin(body(cx, chunk)))
        .on_eom(|cx| Box::pin(eom(cx)))
        .on_unknown(|cx, _| Box::pin(quiet(cx)))
        .on_abort(|cx| Box::pin(nothing(cx)))
        .on_close(|cx| Box::pin(nothing(cx)));
    let config = Config {
        max_connections: 10_000, // by default 100
        ..Default::default()
    };
    indymilter::run(listener, callbacks, config, future::pending::<()>())
        .await
        .expect("the listener failed");
}
