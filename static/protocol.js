// The types of the protocol `chinwag.v1`, as docs/PROTOCOL.md describes it, for tsc.
// No browser loads this file: the other modules refer to it in `@import` comments only.

/**
 * A client attaches it to a command, and the answer repeats it. A string has at most 64 characters.
 * @typedef {number | string} Ref
 */

/**
 * A place in a certain log.
 * @typedef {object} Position
 * @property {string} epoch
 * @property {number} seq
 */

/**
 * A message in its place in the log.
 * @typedef {object} Message
 * @property {string} room
 * @property {number} seq
 * @property {number} at in milliseconds since 1970
 * @property {string} nick
 * @property {string} text
 * @property {string} [id] what its author calls it
 */

/**
 * What a client may send.
 * @typedef {object} Limits
 * @property {number} message_bytes
 * @property {number} frame_bytes
 * @property {number} [rooms] absent where it is not limited
 * @property {number} history
 */

/**
 * @typedef {"bad_json" | "unknown_type" | "hello_first" | "bad_room" | "bad_nick" | "nick_taken"
 *   | "too_long" | "empty" | "not_joined" | "rate_limited" | "busy" | "forbidden" | "internal"
 *   | "shutting_down"} ErrorCode
 */

// Commands: what a client sends

/**
 * @typedef {object} HelloCommand
 * @property {"hello"} type
 * @property {string} [nick]
 * @property {string} [key]
 * @property {Ref} [ref]
 */

/**
 * @typedef {object} NickCommand
 * @property {"nick"} type
 * @property {string} nick
 * @property {Ref} [ref]
 */

/**
 * @typedef {object} JoinCommand
 * @property {"join"} type
 * @property {string} room
 * @property {Position} [after]
 * @property {Ref} [ref]
 */

/**
 * @typedef {object} LeaveCommand
 * @property {"leave"} type
 * @property {string} room
 * @property {Ref} [ref]
 */

/**
 * @typedef {object} SayCommand
 * @property {"say"} type
 * @property {string} room
 * @property {string} text
 * @property {string} [id]
 * @property {Ref} [ref]
 */

/**
 * @typedef {object} WhoCommand
 * @property {"who"} type
 * @property {string} room
 * @property {Ref} [ref]
 */

/**
 * @typedef {object} TypingCommand
 * @property {"typing"} type
 * @property {string} room
 * @property {Ref} [ref]
 */

/**
 * @typedef {object} HistoryCommand
 * @property {"history"} type
 * @property {string} room
 * @property {number} [before]
 * @property {number} [limit]
 * @property {Ref} [ref]
 */

/**
 * @typedef {HelloCommand | NickCommand | JoinCommand | LeaveCommand | SayCommand | WhoCommand
 *   | TypingCommand | HistoryCommand} Command
 */

// Events: what a client is told

/**
 * @typedef {object} WelcomeEvent
 * @property {"welcome"} type
 * @property {string} nick
 * @property {Limits} limits
 * @property {Ref} [ref]
 */

/**
 * @typedef {object} JoinedEvent
 * @property {"joined"} type
 * @property {string} room
 * @property {string} epoch
 * @property {number} seq
 * @property {boolean} recovered
 * @property {string[]} members
 * @property {number} member_count
 * @property {Message[]} messages
 * @property {Ref} [ref]
 */

/** @typedef {Message & { type: "message" }} MessageEvent */

/**
 * @typedef {object} PresenceEvent
 * @property {"presence"} type
 * @property {string} room
 * @property {string[]} joined
 * @property {string[]} left
 * @property {number} member_count
 */

/**
 * @typedef {object} RenamedEvent
 * @property {"renamed"} type
 * @property {string} room
 * @property {string} from
 * @property {string} to
 */

/**
 * @typedef {object} TypingEvent
 * @property {"typing"} type
 * @property {string} room
 * @property {string} nick
 */

/**
 * @typedef {object} MembersEvent
 * @property {"members"} type
 * @property {string} room
 * @property {string[]} members
 * @property {number} member_count
 * @property {Ref} [ref]
 */

/**
 * @typedef {object} LeftEvent
 * @property {"left"} type
 * @property {string} room
 * @property {Ref} [ref]
 */

/**
 * @typedef {object} HistoryEvent
 * @property {"history"} type
 * @property {string} room
 * @property {Message[]} messages
 * @property {boolean} more
 * @property {Ref} [ref]
 */

/**
 * @typedef {object} SaidEvent
 * @property {"said"} type
 * @property {string} room
 * @property {number} seq
 * @property {string} [id]
 * @property {boolean} duplicate
 * @property {Ref} [ref]
 */

/**
 * @typedef {object} ErrorEvent
 * @property {"error"} type
 * @property {ErrorCode} code
 * @property {string} message
 * @property {boolean} temporary
 * @property {string} [suggested] with `nick_taken`
 * @property {number} [retry_after_ms] with `rate_limited`
 * @property {Ref} [ref]
 */

/**
 * @typedef {WelcomeEvent | JoinedEvent | MessageEvent | PresenceEvent | RenamedEvent | TypingEvent
 *   | MembersEvent | LeftEvent | HistoryEvent | SaidEvent | ErrorEvent} ServerEvent
 */

// What the page makes of them. These types are here because browsers load the page's other files,
// and those stay small.

/**
 * A function for each type of event that the page does not ignore.
 * @typedef {{ [E in ServerEvent as E["type"]]?: (event: E, command?: Command) => void }} EventHandlers
 */

/**
 * An entry in the log of a room: a message, a note, or who came and went.
 * @typedef {Message | { note: string } | { came: Set<string>, went: Set<string> }} Entry
 */

/**
 * A message of one's own that has no place in the log yet.
 * @typedef {object} Said
 * @property {string} id
 * @property {string} text
 * @property {"pending" | "failed"} state
 * @property {string} [problem] why it failed
 */

/**
 * The last place that was read in a room. The epoch is null if the room was not joined yet.
 * @typedef {object} Read
 * @property {string | null} epoch
 * @property {number} seq
 */

/**
 * How a connection ended.
 * @typedef {object} Ending
 * @property {string} reason
 * @property {number | null} next when the next one is tried, in milliseconds since 1970
 */

export {};
