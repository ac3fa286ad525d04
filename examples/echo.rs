//! An echo server on chinwag's WebSocket, without the chat. It returns every text or binary message
//! that it receives at `/ws`. The Autobahn test suite runs against it (`scripts/autobahn`).

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use actix::prelude::*;
use actix_web::{App, Error, HttpRequest, HttpResponse, HttpServer, dev, web};
use actix_web_actors::ws::{Message, ProtocolError, WebsocketContext};
use chinwag::websocket::{self, Close, Connections, Incoming, Options, Socket};
use clap::Parser;

/// Returns every WebSocket message to its sender.
#[derive(Clone, Debug, Parser)]
pub struct Args {
    /// Address and port to listen on.
    #[arg(long, default_value = "127.0.0.1:9001")]
    pub listen: SocketAddr,
    /// Maximum size of a WebSocket message, in bytes.
    #[arg(long, default_value_t = 16 * 1024 * 1024)]
    pub max_frame_bytes: usize,
    /// Run an actix-web HttpServer instead of chinwag's own server.
    #[arg(long)]
    pub plain: bool,
}

const PING_INTERVAL: Duration = Duration::from_secs(25);
const PONG_TIMEOUT: Duration = Duration::from_secs(60);
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

struct Echo {
    socket: Socket,
}

impl Actor for Echo {
    type Context = WebsocketContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(PING_INTERVAL, |echo, ctx| {
            if echo.socket.is_silent(PONG_TIMEOUT) {
                echo.socket.close(Close::new(4002, "no answer to pings").discarding(), ctx);
            } else {
                echo.socket.ping();
            }
        });
    }
}

impl StreamHandler<Result<Message, ProtocolError>> for Echo {
    fn handle(&mut self, item: Result<Message, ProtocolError>, ctx: &mut Self::Context) {
        match self.socket.receive(item, ctx) {
            Incoming::Text(text) => ctx.text(text),
            Incoming::Binary(bytes) => ctx.binary(bytes),
            Incoming::Nothing | Incoming::Ended(_) => {}
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        self.socket.finished(ctx);
    }
}

/// Upgrades a request to a WebSocket that echoes.
pub async fn echo(
    req: HttpRequest,
    payload: web::Payload,
    args: web::Data<Args>,
) -> Result<HttpResponse, Error> {
    let options = Options::new(args.max_frame_bytes).compression(true);
    let (_, response) = websocket::upgrade(&req, payload, options, |socket| Echo { socket })?;
    Ok(response)
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let (listener, plain) = (TcpListener::bind(args.listen)?, args.plain);
    let connections = Connections::new(WRITE_TIMEOUT);
    let app = move || {
        App::new().app_data(web::Data::new(args.clone())).service(web::resource("/ws").get(echo))
    };
    if plain {
        return HttpServer::new(app)
            .tcp_nodelay(true)
            .client_disconnect_timeout(Duration::ZERO)
            .on_connect(connections.on_connect())
            .listen(listener)?
            .run()
            .await;
    }
    connections.serve(dev::Server::build(), listener, app, |_, _| {})?.run().await
}
