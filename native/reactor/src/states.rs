//! The states of a connection, and which follows which. `penstock.transport.states` has the table
//! for both transports, with the reasons; a test compares them, and names the two transitions that
//! only this one has.

/// What a connection does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Phase {
    /// It waits for the PROXY header, or reads it.
    AwaitingProxy,
    /// It negotiates TLS with its client.
    Handshaking,
    /// It waits for a request, or reads one.
    Reading,
    /// A part of a body is being written to a temporary file, or it waits to be handed over; no more of
    /// it is read.
    Storing,
    /// It reads the rest of a body that the application did not read, and drops it.
    Discarding,
    /// A thread answers its request.
    HandedOut,
    /// The thread has ended the response, and the leader has not acted on that yet.
    Answered,
    /// The response is finished, and the kernel has not taken all of it.
    Flushing,
    /// The same for an answer of the server's own that refuses the request.
    Refusing,
    /// Closed for writing; what still arrives is dropped until the client closes, too.
    Lingering,
    /// Closed.
    Closed,
}

use Phase::{
    Answered, AwaitingProxy, Closed, Discarding, Flushing, HandedOut, Handshaking, Lingering,
    Reading, Refusing, Storing,
};

/// Each phase, in the order of their numbers, and those that may follow it.
///
/// A connection is closed in any phase but `HandedOut`: a thread uses its stream then.
pub const TRANSITIONS: [(Phase, &[Phase]); 11] = [
    (AwaitingProxy, &[Handshaking, Reading, Refusing, Closed]),
    (Handshaking, &[Reading, Refusing, Lingering, Closed]),
    (
        Reading,
        &[Storing, HandedOut, Flushing, Refusing, Lingering, Closed],
    ),
    (Storing, &[Reading, Refusing, Closed]),
    (Discarding, &[Reading, Lingering, Closed]),
    (HandedOut, &[Answered, Reading]),
    (
        Answered,
        &[Reading, Discarding, Flushing, Lingering, Closed],
    ),
    (Flushing, &[Reading, Discarding, Lingering, Closed]),
    (Refusing, &[Lingering, Closed]),
    (Lingering, &[Closed]),
    (Closed, &[]),
];

impl Phase {
    /// The phase with a number.
    pub fn from_number(number: u8) -> Phase {
        TRANSITIONS
            .get(usize::from(number))
            .map_or(Closed, |(phase, _)| *phase)
    }

    /// Whether `next` may follow.
    pub fn allows(self, next: Phase) -> bool {
        TRANSITIONS
            .iter()
            .any(|(phase, following)| *phase == self && following.contains(&next))
    }

    /// Whether a request is with the application, or its response under way.
    pub fn is_in_progress(self) -> bool {
        matches!(self, HandedOut | Answered | Flushing | Refusing)
    }
}

/// How far the response of one exchange is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResponseState {
    /// Nothing of it has been sent, but for interim responses.
    Waiting,
    /// Its head is being sent, or has been.
    Sending,
    /// There is none: the application has a WebSocket, and the relay the client's stream.
    Relaying,
    /// It is over: the connection is no longer the exchange's.
    Ended,
    /// The server has ended it under the thread that has the exchange.
    Aborted,
}

use ResponseState::{Aborted, Ended, Relaying, Sending, Waiting};

/// Each state of a response, and those that may follow it.
pub const RESPONSE_TRANSITIONS: [(ResponseState, &[ResponseState]); 5] = [
    (Waiting, &[Sending, Relaying, Ended, Aborted]),
    (Sending, &[Ended, Aborted]),
    (Relaying, &[Ended, Aborted]),
    (Ended, &[]),
    (Aborted, &[]),
];

impl ResponseState {
    /// Whether nothing of the response has been sent.
    pub fn is_waiting(self) -> bool {
        self == Waiting
    }

    /// Whether the application has a WebSocket in the place of a response.
    pub fn is_relaying(self) -> bool {
        self == Relaying
    }

    /// Whether the response is over.
    pub fn is_over(self) -> bool {
        matches!(self, Ended | Aborted)
    }

    /// Whether the server has ended the response under the thread that has the exchange.
    pub fn is_aborted(self) -> bool {
        self == Aborted
    }

    /// Go on to `next`, which has to be allowed.
    pub fn move_to(&mut self, next: ResponseState) {
        debug_assert!(
            RESPONSE_TRANSITIONS
                .iter()
                .any(|(state, following)| state == self && following.contains(&next)),
            "{self:?} to {next:?}"
        );
        *self = next;
    }
}

/// What happens to the connection when the response in progress has ended. It only ever gets worse.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fate {
    /// It waits for the next request.
    #[default]
    Keep,
    /// It is closed in good order.
    Close,
    /// It is reset: the response ended early, and nothing else can show that.
    Reset,
}

impl Fate {
    /// Make it at least as bad as `fate`.
    pub fn worsen(&mut self, fate: Fate) {
        *self = fate.max(*self);
    }
}

/// What is known of the input that the stream holds. epoll reports each edge once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// There is none before the next event.
    Drained,
    /// An event told of some, which has not been found yet.
    Announced,
    /// There may be more.
    Possible,
}

impl Input {
    pub fn is_possible(self) -> bool {
        self != Input::Drained
    }

    /// A read found nothing. Where an event told of input, it is looked for once more, for there is
    /// no second edge; return whether it is.
    pub fn found_none(&mut self) -> bool {
        *self = match self {
            Input::Announced => Input::Possible,
            _ => Input::Drained,
        };
        self.is_possible()
    }

    /// A read found some; `all` is whether that was all.
    pub fn found(&mut self, all: bool) {
        *self = if all { Input::Drained } else { Input::Possible };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_stands_at_its_number_and_can_be_reached() {
        for (number, (phase, _)) in TRANSITIONS.iter().enumerate() {
            assert_eq!(*phase as usize, number);
            assert_eq!(Phase::from_number(number as u8), *phase);
            let reached = TRANSITIONS.iter().any(|(_, next)| next.contains(phase));
            let first = *phase == AwaitingProxy; // as it is accepted
            assert!(reached || first, "{phase:?}");
        }
        assert_eq!(Phase::from_number(200), Closed);
    }

    #[test]
    fn a_connection_can_be_closed_in_each_phase_but_while_a_thread_uses_it() {
        for (phase, _) in TRANSITIONS {
            let may = !matches!(phase, HandedOut | Closed);
            assert_eq!(phase.allows(Closed), may, "{phase:?}");
        }
    }

    #[test]
    fn a_fate_does_not_get_better() {
        let mut fate = Fate::Keep;
        fate.worsen(Fate::Reset);
        fate.worsen(Fate::Close);
        assert_eq!(fate, Fate::Reset);
    }

    #[test]
    fn input_that_was_announced_is_looked_for_twice() {
        let mut input = Input::Announced;
        assert!(input.found_none());
        assert!(!input.found_none());
        assert_eq!(input, Input::Drained);
    }

    /// The table as a Mermaid diagram.
    fn diagram() -> String {
        let mut lines = vec!["```mermaid".to_owned(), "stateDiagram-v2".to_owned()];
        lines.push(format!("    [*] --> {Reading:?}"));
        lines.push(format!("    [*] --> {AwaitingProxy:?}"));
        lines.push(format!("    [*] --> {Handshaking:?}"));
        for (phase, following) in TRANSITIONS {
            lines.extend(
                following
                    .iter()
                    .map(|next| format!("    {phase:?} --> {next:?}")),
            );
        }
        lines.push(format!("    {Closed:?} --> [*]"));
        lines.push("```".to_owned());
        lines.join("\n")
    }

    #[test]
    fn the_documentation_has_this_diagram() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/native.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (before, rest) = page.split_once("<!-- states -->\n").unwrap();
        let (_, after) = rest.split_once("<!-- /states -->").unwrap();
        let drawn = format!(
            "{before}<!-- states -->\n{}\n<!-- /states -->{after}",
            diagram()
        );
        if std::env::var_os("WRITE_DOCS").is_some() {
            std::fs::write(path, drawn).unwrap();
        } else {
            assert_eq!(page, drawn, "WRITE_DOCS=1 draws the diagram anew");
        }
    }
}
