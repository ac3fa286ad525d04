//! Limits of connections and rates. The HTTP routes take a [`ConnectionPermit`] for each
//! connection, and the session counts messages and commands against it. No input or output happens
//! here.

mod connections;
mod rates;

pub(crate) use connections::{
    ConnectionLimiter, ConnectionPermit, ConnectionRefused, SourceAddress,
};
