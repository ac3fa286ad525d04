// The types of the protocol `chinwag.v1`, which docs/PROTOCOL.md describes, for tsc.
// Browsers do not load this file: the other modules refer to it only in `@import` comments.

/**
 * A reference that a client attaches to a command, and that the answer repeats. A string may have up
 * to 64 characters.
 * @typedef {number | string} Ref
 */

/**
 * A position in the history of a room.
 * @typedef {object} Position
 * @property {string} epoch identifies the history in which `seq` counts
 * @property {number} seq a sequence number
 */

/**
 * A message in the history of a room.
 * @typedef {object} Message
 * @property {string} room
 * @property {number} seq
 * @property {number} at in milliseconds since 1970
 * @property {string} [author] the public identity of the author
 * @property {string} nick
 * @property {string} text empty if the message is deleted
 * @property {string} [id] an identifier that the author's client chose
 * @property {number} [reply_to] the `seq` of the message that it replies to
 * @property {number} [edited_at] in milliseconds since 1970
 * @property {boolean} [deleted]
 */

/**
 * The beginning of a message, as a reply shows it.
 * @typedef {object} Quote
 * @property {string} nick
 * @property {string} text
 */

/**
 * A message in `joined` and `history`.
 * @typedef {Message & { quote?: Quote, reactions?: Record<string, number> }} ListedMessage
 */

/**
 * A reaction of this user.
 * @typedef {object} OwnReaction
 * @property {number} seq the message
 * @property {string} emoji
 */

/**
 * The limits of the server.
 * @typedef {object} Limits
 * @property {number} message_bytes the maximum size of a message's text
 * @property {number} frame_bytes the maximum size of a WebSocket message
 * @property {number} [rooms] the maximum number of rooms of a client; absent if unlimited
 * @property {number} history the maximum number of messages in a `history` event
 * @property {number} [search] the maximum number of results in a `search` event; absent if the server
 *   cannot search
 * @property {boolean} edits whether authors may edit and delete their messages
 * @property {number} [edit_window_ms] how long they may do it; absent if unlimited
 * @property {number} [unread] the maximum of `unread` in `joined`; absent if the server keeps no
 *   read marks
 */

/**
 * @typedef {object} Durability
 * @property {"memory" | "file" | "disk" | "stream"} level
 * @property {number} [replicas] the number of NATS servers that are configured to store messages;
 *   only with `stream`, and absent while it is not known
 */

/**
 * @typedef {"bad_json" | "unknown_type" | "hello_first" | "bad_room" | "bad_nick" | "nick_taken"
 *   | "too_long" | "empty" | "not_joined" | "not_found" | "rate_limited" | "busy" | "forbidden"
 *   | "internal" | "shutting_down"} ErrorCode
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
 * @property {number} [reply_to]
 * @property {string} [id]
 * @property {Ref} [ref]
 */

/**
 * @typedef {object} EditCommand
 * @property {"edit"} type
 * @property {string} room
 * @property {number} seq
 * @property {string} text
 * @property {string} [id]
 * @property {Ref} [ref]
 */

/**
 * @typedef {object} DeleteCommand
 * @property {"delete"} type
 * @property {string} room
 * @property {number} seq
 * @property {string} [id]
 * @property {Ref} [ref]
 */

/**
 * @typedef {object} ReactCommand
 * @property {"react"} type
 * @property {string} room
 * @property {number} seq
 * @property {string} emoji
 * @property {boolean} [on] true if absent
 * @property {string} [id]
 * @property {Ref} [ref]
 */

/**
 * @typedef {object} SetRoomCommand
 * @property {"set_room"} type
 * @property {string} room
 * @property {string} topic
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
 * Sets the user's read mark for a room. There is no answer, except errors.
 * @typedef {object} ReadCommand
 * @property {"read"} type
 * @property {string} room
 * @property {number} seq
 * @property {Ref} [ref]
 */

/**
 * @typedef {object} HistoryCommand
 * @property {"history"} type
 * @property {string} room
 * @property {number} [before] at most one of `before`, `after` and `around` is present
 * @property {number} [after]
 * @property {number} [around]
 * @property {number} [limit]
 * @property {Ref} [ref]
 */

/**
 * @typedef {object} SearchCommand
 * @property {"search"} type
 * @property {string} text
 * @property {string} [room]
 * @property {string} [from] the name of the author
 * @property {number} [before] only messages with a lower `seq`
 * @property {number} [limit] the maximum number of results; 20 by default
 * @property {Ref} [ref]
 */

/**
 * @typedef {HelloCommand | NickCommand | JoinCommand | LeaveCommand | SayCommand | EditCommand
 *   | DeleteCommand | ReactCommand | SetRoomCommand | WhoCommand | TypingCommand | ReadCommand
 *   | HistoryCommand | SearchCommand} Command
 */

/**
 * A command whose answer is `said`.
 * @typedef {SayCommand | EditCommand | DeleteCommand | ReactCommand | SetRoomCommand} EntryCommand
 */

// Events: what the server sends

/**
 * @typedef {object} WelcomeEvent
 * @property {"welcome"} type
 * @property {string} nick
 * @property {string} author the public identity of this user
 * @property {Limits} limits
 * @property {Durability} durability what a committed message survives
 * @property {Ref} [ref]
 */

/**
 * @typedef {object} JoinedEvent
 * @property {"joined"} type
 * @property {string} room
 * @property {string} epoch
 * @property {number} seq
 * @property {boolean} recovered
 * @property {string} [topic]
 * @property {string[]} members
 * @property {number} member_count
 * @property {number} [read] the user's read mark; absent if there is none
 * @property {number} [unread] the number of unread messages; the maximum means that many or more
 * @property {number} [first_unread] the `seq` of the first unread message
 * @property {number} [mentions] how many of the counted messages mention the user
 * @property {ListedMessage[]} messages
 * @property {OwnReaction[]} [mine]
 * @property {ChangeEvent[]} [changes]
 * @property {Ref} [ref]
 */

/** @typedef {Message & { type: "message" }} MessageEvent */

/**
 * The fields of all events that tell of a change.
 * @typedef {object} Change
 * @property {string} room
 * @property {number} seq
 * @property {number} at in milliseconds since 1970
 * @property {string} [author] the public identity of whoever made the change
 * @property {string} nick
 * @property {string} [id]
 */

/** @typedef {Change & { type: "edited", target: number, text: string }} EditedEvent */

/** @typedef {Change & { type: "deleted", target: number }} DeletedEvent */

/**
 * @typedef {Change & { type: "reacted", target: number, emoji: string, on: boolean, count: number }
 *   } ReactedEvent
 */

/** @typedef {Change & { type: "room", topic: string }} RoomEvent */

/** @typedef {EditedEvent | DeletedEvent | ReactedEvent} MessageChange */

/** @typedef {MessageChange | RoomEvent} ChangeEvent */

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
 * The user's read mark has moved: another device has read the room up to `seq`.
 * @typedef {object} ReadEvent
 * @property {"read"} type
 * @property {string} room
 * @property {number} seq
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
 * @property {ListedMessage[]} messages
 * @property {OwnReaction[]} [mine]
 * @property {boolean} more
 * @property {boolean} [more_newer]
 * @property {Ref} [ref]
 */

/**
 * A result: a message that was found.
 * @typedef {object} SearchResult
 * @property {string} room
 * @property {number} seq
 * @property {number} at in milliseconds since 1970
 * @property {string} [author] the public identity of the author
 * @property {string} nick
 * @property {string[]} snippet plain and matching text in turn, beginning with plain text
 */

/**
 * @typedef {object} SearchEvent
 * @property {"search"} type
 * @property {SearchResult[]} results newest first
 * @property {boolean} more whether there may be older results
 * @property {boolean} [incomplete] whether some messages were not searched
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
 * @typedef {WelcomeEvent | JoinedEvent | MessageEvent | ChangeEvent | PresenceEvent | RenamedEvent
 *   | TypingEvent | ReadEvent | MembersEvent | LeftEvent | HistoryEvent | SearchEvent | SaidEvent
 *   | ErrorEvent} ServerEvent
 */

// Types of the client and the page. They are in this file because browsers do not load it.

/**
 * A handler for each type of event that the page does not ignore.
 * @typedef {{ [E in ServerEvent as E["type"]]?:
 *   (event: E, command?: Command, room?: import("./room.js").Room) => void }} EventHandlers
 */

/**
 * A message in the page. `mine` has the emoji of this user's reactions.
 * @typedef {ListedMessage & { mine?: string[] }} ShownMessage
 */

/**
 * An entry in the message list: a message, a note, or the users who joined and left.
 * @typedef {ShownMessage | { note: string } | { joined: Set<string>, left: Set<string> }} Entry
 */

/**
 * What the message list needs from the page.
 * @typedef {object} LogCallbacks
 * @property {(room: import("./room.js").Room) => void} loadOlder
 * @property {(past: import("./room.js").Room) => void} loadNewer
 * @property {() => void} endReached called when the end is visible
 * @property {(said: UnconfirmedMessage, isRetry: boolean) => void} resolveFailed sends a failed
 *   message again, or discards it
 * @property {() => string} me returns the user's name
 */

/**
 * A message or a change by this client that the server has not confirmed.
 * @template {EntryCommand} [C=EntryCommand]
 * @typedef {object} Unconfirmed
 * @property {string} id
 * @property {C} command
 * @property {"pending" | "failed"} state
 * @property {string} [problem] the reason, if it failed
 * @property {boolean} [isEdit] whether its text is that of an edit that failed
 */

/** @typedef {Unconfirmed<SayCommand>} UnconfirmedMessage */

/**
 * What the text field is for, if it is not for a new message.
 * @typedef {object} Composing
 * @property {boolean} isEdit whether the message is edited; otherwise it is replied to
 * @property {number} seq
 * @property {string} nick
 * @property {string} text
 * @property {string} draft the text of the field before the edit
 */

/**
 * The position of the last message that was read in a room.
 * @typedef {object} ReadPosition
 * @property {string | null} epoch null if the room has not been joined yet
 * @property {number} seq
 */

/**
 * The options of a `Client`.
 * @template {import("./client.js").Membership} Room
 * @typedef {object} Options
 * @property {string | URL} url the address of the WebSocket
 * @property {string} [key] a secret of 16 to 256 characters: clients with the same key are one user.
 *   Defaults to none: each connection is then another user
 * @property {string} [nick] the name to ask for; by default the server chooses one
 * @property {typeof WebSocket} [WebSocket] defaults to the global one
 * @property {number} [answerMs] how long the server may leave a command unanswered and send nothing
 *   else before the client reconnects, in milliseconds; defaults to 15,000
 * @property {() => void} [opened] called when a connection opens, after `hello` and `join` are sent
 * @property {(event: ServerEvent, command?: Command, room?: Room) => void} [received] called for each
 *   event, with the command that it answers and the room of that command; after `joined` also for
 *   each of its `changes`, as if it had arrived as an event
 * @property {(room: Room) => void} [changed] called when a room's `pending` changes, except by the
 *   methods that add to it, and by `sayAgain`
 * @property {(end: Ending) => void} [closed] called when a connection or an attempt ends, with the
 *   time of the next attempt, but not after `disconnect`
 */

/**
 * A command that the server has not answered.
 * @template {import("./client.js").Membership} Room
 * @typedef {object} Request
 * @property {Command} command
 * @property {Room} [room]
 * @property {Unconfirmed} [said] what the command sends
 * @property {(event: ServerEvent | null) => void} [answered] called with the answer, or with null if the
 *   connection ends before it
 * @property {number} at when it was sent, in milliseconds since 1970
 */

/**
 * How a connection ended.
 * @typedef {object} Ending
 * @property {string} reason from the server or the client; may be empty
 * @property {number | null} next the time of the next attempt, in milliseconds since 1970, or null if
 *   there is none
 */

export {};
