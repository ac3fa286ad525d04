//! Who a client is.

use actix::prelude::*;

use super::Hub;
use crate::domain::{ClientId, Identity, Nick};
use crate::wire::{Event, Ref};

/// A client says who it is, at first or anew. It is answered by [`Event::Welcome`].
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Hello {
    /// Who says so.
    pub client: ClientId,
    /// The name that its messages bear from now on; without one they do as before.
    pub nick: Option<Nick>,
    /// Whose client it is; without one it stays as it is.
    pub identity: Option<Identity>,
    /// What the answer echoes.
    pub reference: Option<Ref>,
}

impl Handler<Hello> for Hub {
    type Result = ();

    fn handle(&mut self, hello: Hello, _: &mut Self::Context) {
        let Hello { client: id, nick, identity, reference } = hello;
        let Some(client) = self.clients.get_mut(&id) else { return };
        if let Some(identity) = identity {
            client.identity = identity;
        }
        if let Some(nick) = nick {
            let before = std::mem::replace(&mut client.nick, nick);
            for name in &client.rooms {
                if let Some(room) = self.rooms.get_mut(name) {
                    room.rename(&before, &client.nick);
                }
            }
        }
        let welcome = Event::Welcome { nick: client.nick.clone(), limits: self.limits };
        self.answer(id, welcome, reference);
    }
}
