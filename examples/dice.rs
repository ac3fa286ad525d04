//! A bot that rolls dice. Run the example, open the page and send `!roll 2d6`.
//!
//! It shows the two ways to extend chinwag from another crate:
//!
//! * `Roll` is a new actor message for the hub. Its handler calls the hub's public methods.
//! * `DiceBot` is an actor that is registered as a client. It receives the messages of its room.

use actix::prelude::*;
use chinwag::domain::{BadNick, ClientId, MessageText, Nick, RoomName};
use chinwag::hub::{CatchUp, Deliver, Join, Register};
use chinwag::{Config, Hub};

const MAX_DICE: u32 = 20;
const MAX_SIDES: u32 = 1000;

/// Rolls dice for a member, and publishes the result in the room.
#[derive(Message)]
#[rtype(result = "()")]
struct Roll {
    room: RoomName,
    roller: Nick,
    bot: Nick,
    dice: u32,
    sides: u32,
}

impl Handler<Roll> for Hub {
    type Result = ();

    fn handle(&mut self, roll: Roll, _: &mut Self::Context) {
        let Roll { room, roller, bot, dice, sides } = roll;
        let rolled: Vec<u32> = (0..dice).map(|_| fastrand::u32(1..=sides)).collect();
        let sum: u32 = rolled.iter().sum();
        let rolled: Vec<String> = rolled.iter().map(ToString::to_string).collect();
        let line = format!("{roller} rolls {dice}d{sides}: {} = {sum}", rolled.join(" + "));
        if let Ok(text) = MessageText::parse(line, 4096) {
            self.broadcast(&room, &bot, text);
        }
    }
}

/// A client that answers `!roll NdS` with a roll of N dice that have S sides.
pub struct DiceBot {
    hub: Addr<Hub>,
    nick: Nick,
    room: RoomName,
}

impl DiceBot {
    /// Starts the bot, registers it and joins a room.
    pub fn join(hub: Addr<Hub>, room: RoomName) -> Result<Addr<Self>, BadNick> {
        Ok(Self { hub, nick: Nick::parse("dice")?, room }.start())
    }
}

impl Actor for DiceBot {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (client, nick, room) = (ClientId::next(), self.nick.clone(), self.room.clone());
        let to = ctx.address().recipient().into();
        self.hub.do_send(Register { client, nick, events: false, to });
        self.hub.do_send(Join { client, room, catch_up: CatchUp::Latest(0), reference: None });
    }
}

impl Handler<Deliver> for DiceBot {
    type Result = ();

    fn handle(&mut self, deliver: Deliver, ctx: &mut Self::Context) {
        if matches!(deliver, Deliver::Close(_)) {
            return ctx.stop();
        }
        for message in deliver.batches().iter().flat_map(|batch| batch.messages()) {
            if let Some((dice, sides)) = parse_roll(message.text.as_str()) {
                self.hub.do_send(Roll {
                    room: message.room.clone(),
                    roller: message.nick.clone(),
                    bot: self.nick.clone(),
                    dice,
                    sides,
                });
            }
        }
    }
}

/// Parses `!roll 2d6` as 2 dice with 6 sides.
fn parse_roll(text: &str) -> Option<(u32, u32)> {
    let (dice, sides) = text.strip_prefix("!roll ")?.split_once('d')?;
    let (dice, sides) = (dice.trim().parse().ok()?, sides.trim().parse().ok()?);
    let is_valid = (1..=MAX_DICE).contains(&dice) && (1..=MAX_SIDES).contains(&sides);
    is_valid.then_some((dice, sides))
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let server = chinwag::server::start(Config::default()).await?;
    DiceBot::join(server.hub().clone(), RoomName::default())?;
    server.run().await?;
    Ok(())
}
