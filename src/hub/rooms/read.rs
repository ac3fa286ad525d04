//! Read marks: the sequence numbers up to which users have read rooms. The log keeps the marks.
//! When a mark moves, the hub sends it to the user's other clients in the room.

use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::OwnedSemaphorePermit;

use crate::domain::{ClientId, Identity, RoomName, Seq};
use crate::hub::{Deliver, Hub, Notice};
use crate::log::MarkRead;
use crate::log::nodes::UserChange;
use crate::protocol::{ErrorCode, Event, Ref, Refusal, Reply};

/// Sets the read mark of a client's user for a room. If the mark moves forward, the user's other
/// clients in the room receive [`Event::Read`]. A mark never moves back. There is no answer except
/// errors: [`ErrorCode::NotJoined`] if the client is not a member of the room, or
/// [`ErrorCode::Forbidden`] if the client has no key or the log keeps no read marks.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Read {
    /// The client.
    pub client: ClientId,
    /// The room.
    pub room: RoomName,
    /// The last message that the user has read. A number after the last delivered entry counts as
    /// that entry.
    pub seq: Seq,
    /// The reference that an error repeats.
    pub reference: Option<Ref>,
    /// See [`Broadcast::permit`](crate::hub::Broadcast::permit).
    pub permit: OwnedSemaphorePermit,
}

impl Handler<Read> for Hub {
    type Result = ();

    fn handle(&mut self, read: Read, _: &mut Self::Context) {
        let Read { client, room, seq, reference, .. } = read;
        if let Err(refusal) = self.mark_read(client, &room, seq) {
            let reply = Reply { event: Event::Error(refusal), reference };
            self.send_to(client, Deliver::Direct(vec![reply]));
        }
    }
}

impl Hub {
    /// Raises the read mark of a client's user, and sends it to the log and the other clients.
    fn mark_read(&mut self, id: ClientId, name: &RoomName, seq: Seq) -> Result<(), Refusal> {
        let client = self.clients.get(&id).filter(|client| client.is_in(name));
        let client = client.ok_or_else(Refusal::not_joined)?;
        let seq = seq.min(self.delivered(name));
        let marks = self.log.backend.read_marks();
        let Some(marks) = marks.filter(|_| client.has_key(id)) else {
            let text = "read marks need a key, and a server with a history file";
            return Err(Refusal::new(ErrorCode::Forbidden, text));
        };
        let identity = client.identity;
        let room = self.users.get_mut(&identity).and_then(|user| user.rooms.get_mut(name));
        if let Some(room) = room.filter(|room| room.read_mark < seq) {
            room.read_mark = seq;
            marks.mark.do_send(MarkRead { identity, room: name.clone(), seq });
            self.tell_other_clients(Some(id), identity, name, seq);
            let room = name.clone();
            self.nodes.tell_change(|| UserChange::Read { who: identity, room, seq });
        }
        Ok(())
    }

    /// Raises the read mark of a user of another node.
    pub(in crate::hub) fn mark_read_on_node(&mut self, who: Identity, name: &RoomName, seq: Seq) {
        let user_room = self.users.get_mut(&who).and_then(|user| user.rooms.get_mut(name));
        let Some(room) = user_room.filter(|room| room.read_mark < seq) else { return };
        room.read_mark = seq;
        if let Some(marks) = self.log.backend.read_marks() {
            marks.mark.do_send(MarkRead { identity: who, room: name.clone(), seq });
        }
        self.tell_other_clients(None, who, name, seq);
    }

    /// Sends a read mark to the clients of a user in a room, except the one that set it.
    fn tell_other_clients(
        &mut self,
        except: Option<ClientId>,
        who: Identity,
        name: &RoomName,
        seq: Seq,
    ) {
        let user = self.users.get(&who).into_iter();
        let clients = user.flat_map(|user| &user.clients).copied();
        let others = clients.filter(|other| Some(*other) != except);
        let wants = |other: &ClientId| {
            self.clients.get(other).is_some_and(|client| client.events && client.is_in(name))
        };
        let others: Vec<_> = others.filter(wants).collect();
        let notice = Arc::new(Notice::new(vec![Event::Read { room: name.clone(), seq }]));
        for other in others {
            self.send_to(other, Deliver::Notices(vec![Arc::clone(&notice)]));
        }
    }
}
