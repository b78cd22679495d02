//! Threads that lead, follow, and wait for a disk.

use super::bench::{Bench, fake_time, options, scoreboard};
use crate::closing;
use crate::disconnect;
use crate::event_loop::{EventLoop, Step};
use crate::leader::Leader;
use crate::leader_followers::{LeaderFollowers, Turn};
use crate::next_request;
use crate::options::Options;
use crate::responding;
use crate::scoreboard::{IO_BOUND_CALLS, IO_BOUND_REFUSED, WEBSOCKETS, WEBSOCKETS_REFUSED};
use crate::shared::Shared;
use crate::states::{Fate, Phase};
use crate::sys;
use crate::thread_count::{Leave, Place, ThreadCount};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn threads() -> (Shared, LeaderFollowers) {
    let shared = Shared::new(options(), scoreboard(2)).unwrap();
    shared.attended.set(true);
    let threads =
        LeaderFollowers::new(EventLoop::new(&shared, Vec::new()), Arc::clone(&shared.led));
    (shared, threads)
}

fn lead(shared: &Shared, threads: &LeaderFollowers) -> Option<Step> {
    threads.lead_attached(shared, &mut None, &mut 0)
}

#[test]
fn a_parked_thread_leads_where_a_call_lasts_a_tick() {
    assert!(fake_time().is_none());
    let (shared, threads) = threads();
    // This thread leads, and goes to the application.
    assert!(matches!(lead(&shared, &threads), Some(Step::Idle)));
    threads.count(&shared);
    thread::scope(|scope| {
        let follower = scope.spawn(|| threads.lead_or_park(&shared));
        let monitor = scope.spawn(|| threads.watch(&shared));
        while !shared.inbox.polling.get() {
            assert!(!follower.is_finished());
            thread::yield_now();
        }
        // It leads until the end, and the thread that comes back from its call does not.
        assert!(lead(&shared, &threads).is_none());
        shared.closed.set(true);
        threads.interrupt(&shared);
        assert!(matches!(follower.join().unwrap(), Turn::Over));
        monitor.join().unwrap();
    });
}

#[test]
fn a_leader_that_panics_leaves_leadership_to_others() {
    let (shared, threads) = threads();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        threads.with_leadership(|_| panic!("a defect"));
    }));
    assert!(panicked.is_err());
    assert!(!threads.is_led());
    assert!(
        threads
            .with_leadership(|event_loop| event_loop.run(&shared, Leader::Attached, &mut 0))
            .is_some()
    );
    assert!(matches!(lead(&shared, &threads), Some(Step::Idle)));
}

#[test]
fn a_leader_that_holds_the_interpreter_lock_gives_it_up_in_time() {
    let (shared, threads) = threads();
    let mut buffers = None;
    let mut until = 0;
    threads
        .lead_attached(&shared, &mut buffers, &mut until)
        .unwrap();
    assert!(until > sys::monotonic() - sys::SECOND);
    until = sys::monotonic() - 1;
    // Not even a listener's event is looked at any more.
    let step = threads.lead_attached(&shared, &mut buffers, &mut until);
    assert!(matches!(step, Some(Step::Blocked)));
}

#[test]
fn no_other_thread_waits_for_a_disk_that_a_response_waits_for() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    bench.send(&client, GET);
    let waiting = bench.take();
    let file = sys::temporary_file(&std::env::temp_dir()).unwrap();
    sys::write_all(&file, &[b'x'; 10_000]).unwrap();
    client.stop_disk();
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            responding::send_region(&bench.shared, &waiting.connection, file, 0, 10_000, b"end")
        });
        client.await_disk();
        // The leader is free to act on the connection: there is room, or its client is gone.
        assert!(waiting.connection.lock().output.is_in_flight());
        assert!(!disconnect::find_gone(&waiting.connection));
        client.start_disk();
        assert!(sending.join().unwrap().is_ok());
    });
    let received = client.received();
    assert_eq!(received.len(), 10_003);
    assert!(received.ends_with("xend"));
}

#[test]
fn a_connection_is_not_closed_under_a_thread_that_sends_a_file() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    bench.send(&client, GET);
    let waiting = bench.take();
    let file = sys::temporary_file(&std::env::temp_dir()).unwrap();
    sys::write_all(&file, &[b'x'; 10_000]).unwrap();
    client.stop_disk();
    let connection = Arc::clone(&waiting.connection);
    thread::scope(|scope| {
        let shared = &bench.shared;
        let sending =
            scope.spawn(move || responding::send_region(shared, &connection, file, 0, 10_000, b""));
        client.await_disk();
        // Another thread ends the response early.
        let mut state = waiting.connection.lock();
        state.exchange.fate = Fate::Reset;
        next_request::give_back(&waiting.connection, shared, &mut state, sys::monotonic());
        drop(state);
        bench.event_loop.run(shared, Leader::Attached, &mut 0);
        bench.event_loop.attend(shared);
        assert!(client.is_shut() && !client.is_closed());
        client.start_disk();
        assert!(sending.join().unwrap().is_err());
        bench.event_loop.attend(shared);
    });
    assert!(client.is_reset());
}

#[test]
fn a_place_in_the_count_goes_to_a_thread_that_came_back_before_a_new_one_is_started() {
    let shared = Shared::new(options(), scoreboard(3)).unwrap();
    let count = ThreadCount::default();
    let [first, second, third] = [0, 1, 2].map(|index| Place::new(shared.scoreboard.record(index)));
    assert_eq!(count.leave(&shared, &first, false), Leave::NeedsThread);
    assert!(first.has_left() && first.is_missing());
    assert_eq!(shared.scoreboard.get(IO_BOUND_CALLS), 1);
    assert_eq!(count.leave(&shared, &second, false), Leave::Refused); // max_io_bound
    assert!(!second.has_left() && !second.is_missing());
    assert_eq!(shared.scoreboard.get(IO_BOUND_REFUSED), 1);
    // The last that a thread notes as it comes back. What is noted before it can be seen before it.
    let await_return = || {
        while shared.scoreboard.get(IO_BOUND_CALLS) > 0 {
            thread::yield_now();
        }
    };
    thread::scope(|scope| {
        let back = scope.spawn(|| count.await_place(&shared, &first));
        await_return();
        assert!(first.is_missing() && !first.has_left() && !back.is_finished());
        assert_eq!(count.leave(&shared, &second, false), Leave::Replaced);
        back.join().unwrap();
        assert!(!first.is_missing() && second.is_missing());
        // The end wakes what waits.
        let back = scope.spawn(|| count.await_place(&shared, &second));
        await_return();
        count.end();
        back.join().unwrap();
    });
    assert_eq!(count.leave(&shared, &third, false), Leave::Refused);
}

#[test]
fn a_websocket_has_a_limit_of_its_own_and_keeps_the_only_thread() {
    let shared = Shared::new(options(), scoreboard(3)).unwrap();
    let counts = |shared: &Shared| {
        let words = [WEBSOCKETS, IO_BOUND_CALLS, WEBSOCKETS_REFUSED];
        words.map(|word| shared.scoreboard.get(word))
    };
    let count = ThreadCount::default();
    let [first, second, third] = [0, 1, 2].map(|index| Place::new(shared.scoreboard.record(index)));
    assert_eq!(count.leave(&shared, &first, true), Leave::NeedsThread);
    assert_eq!(count.leave(&shared, &second, false), Leave::NeedsThread);
    assert_eq!(counts(&shared), [1, 2, 0]);
    // One that has left the count already has another kind of place now.
    assert_eq!(count.leave(&shared, &second, true), Leave::Replaced);
    assert_eq!(counts(&shared), [2, 2, 0]);
    assert_eq!(count.leave(&shared, &third, true), Leave::Refused);
    assert_eq!(count.leave(&shared, &third, false), Leave::NeedsThread);
    assert_eq!(counts(&shared), [2, 3, 1]);
    assert!(!count.replace_otherwise(&shared, &first)); // no thread could be started after all
    assert_eq!(counts(&shared), [1, 2, 2]);
    let one = Options {
        threads: 1,
        ..options()
    };
    let shared = Shared::new(one, scoreboard(1)).unwrap();
    let (count, only) = (
        ThreadCount::default(),
        Place::new(shared.scoreboard.record(0)),
    );
    assert_eq!(count.leave(&shared, &only, true), Leave::Replaced);
    assert!(!only.has_left() && !only.is_missing());
    assert_eq!(counts(&shared), [1, 0, 0]);
    count.come_back(&shared, &only);
    assert_eq!(counts(&shared), [0, 0, 0]);
}

#[test]
fn a_call_stays_in_the_count_where_no_thread_can_be_started() {
    let shared = Shared::new(options(), scoreboard(2)).unwrap();
    let count = ThreadCount::default();
    let place = Place::new(shared.scoreboard.record(0));
    assert_eq!(count.leave(&shared, &place, false), Leave::NeedsThread);
    assert!(!count.replace_otherwise(&shared, &place));
    assert!(!place.has_left() && !place.is_missing());
    assert_eq!(shared.scoreboard.get(IO_BOUND_CALLS), 0);
    assert_eq!(count.leave(&shared, &place, false), Leave::NeedsThread);
}

#[test]
fn the_leader_has_another_thread_send_what_is_left_of_a_file() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    bench.send(&client, GET);
    let waiting = bench.take();
    let file = sys::temporary_file(&std::env::temp_dir()).unwrap();
    sys::write_all(&file, &[b'x'; 10_000]).unwrap();
    client.set_room(1000);
    let connection = Arc::clone(&waiting.connection);
    assert!(responding::send_region(&bench.shared, &connection, file, 0, 10_000, b"end").is_ok());
    client.stop_disk();
    client.set_room(usize::MAX);
    bench.shared.post(&connection, &mut connection.lock());
    bench.event_loop.attend(&bench.shared);
    client.await_disk();
    assert!(connection.lock().output.is_in_flight());
    client.start_disk();
    bench.shared.senders.threads.catch_up();
    assert_eq!(client.received().len(), 10_003);
    assert_eq!(connection.lock().output.size, 0);
    assert_eq!(bench.shared.files.get(), 0);
}

#[test]
fn a_connection_that_is_closed_while_a_thread_sends_for_the_leader_is_closed_by_that_thread() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    bench.send(&client, GET);
    let waiting = bench.take();
    let file = sys::temporary_file(&std::env::temp_dir()).unwrap();
    sys::write_all(&file, &[b'x'; 10_000]).unwrap();
    client.set_room(1000);
    let connection = Arc::clone(&waiting.connection);
    assert!(responding::send_region(&bench.shared, &connection, file, 0, 10_000, b"").is_ok());
    client.stop_disk();
    client.set_room(usize::MAX);
    let mut state = connection.lock();
    next_request::give_back(&connection, &bench.shared, &mut state, sys::monotonic());
    state.output.note_room(); // as an event does that comes before the leader's turn
    drop(state);
    bench.event_loop.attend(&bench.shared);
    client.await_disk();
    assert_eq!(client.phase(), Phase::Flushing);
    let mut state = connection.lock();
    let stalled = std::io::Error::from_raw_os_error(libc::ETIMEDOUT);
    closing::give_up(&connection, &bench.shared, &mut state, &stalled);
    drop(state);
    assert!(client.is_shut() && !client.is_closed());
    assert_eq!(bench.shared.connection_count(), 0);
    client.start_disk();
    bench.turn();
    assert!(client.is_reset());
    assert_eq!(bench.shared.files.get(), 0);
}

#[test]
fn room_that_is_told_of_between_the_answer_and_the_leaders_turn_is_used() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    bench.send(&client, GET);
    let waiting = bench.take();
    let connection = Arc::clone(&waiting.connection);
    client.set_room(1000);
    let sent = responding::send_large(
        &bench.shared,
        &connection,
        b"",
        vec![b'x'; 10_000],
        [b"", b""],
    );
    assert!(sent.is_ok() && connection.lock().output.is_full());
    let mut state = connection.lock();
    next_request::give_back(&connection, &bench.shared, &mut state, sys::monotonic());
    drop(state);
    bench.make_room(&client, usize::MAX);
    assert_eq!(client.received().len(), 10_000);
}

#[test]
fn a_connection_is_once_in_the_queue_of_senders_that_wait_for_a_disk() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    bench.send(&client, GET);
    let waiting = bench.take();
    let connection = Arc::clone(&waiting.connection);
    let goes: Vec<_> = (0..bench.shared.options.send_threads)
        .map(|_| stop_sender(&bench.shared))
        .collect();
    for _ in 0..3 {
        let file = sys::temporary_file(&std::env::temp_dir()).unwrap();
        sys::write_all(&file, &[b'x'; 10_000]).unwrap();
        client.set_room(1000);
        assert!(responding::send_region(&bench.shared, &connection, file, 0, 10_000, b"").is_ok());
        bench.shared.post(&connection, &mut connection.lock());
        bench.event_loop.attend(&bench.shared); // there is a part of a file: a thread is asked
        assert!(!bench.shared.senders.threads.has_room(1));
        assert!(bench.shared.senders.threads.has_room(2));
    }
    client.set_room(usize::MAX);
    drop(goes);
    while connection.lock().output.size > 0 {
        thread::yield_now();
    }
    assert_eq!(client.received().len(), 30_000);
}

#[test]
fn a_client_that_resets_is_closed_while_its_response_waits_for_one_of_the_senders() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    bench.send(&client, GET);
    let waiting = bench.take();
    let connection = Arc::clone(&waiting.connection);
    let goes: Vec<_> = (0..bench.shared.options.send_threads)
        .map(|_| stop_sender(&bench.shared))
        .collect();
    let file = sys::temporary_file(&std::env::temp_dir()).unwrap();
    sys::write_all(&file, &[b'x'; 10_000]).unwrap();
    client.set_room(1000);
    assert!(responding::send_region(&bench.shared, &connection, file, 0, 10_000, b"").is_ok());
    let mut state = connection.lock();
    next_request::give_back(&connection, &bench.shared, &mut state, sys::monotonic());
    drop(state);
    bench.event_loop.attend(&bench.shared);
    assert_eq!(client.phase(), Phase::Flushing);
    bench.stop_disk(); // so that the loop does not wait for what it has asked for
    bench.reset(&client);
    assert_eq!(client.phase(), Phase::Closed);
    drop(goes);
    bench.start_disk();
}

/// Have one of the senders wait, as for a disk, until what is returned is dropped.
fn stop_sender(shared: &Shared) -> Sender<()> {
    let ((go, goes), (begin, begun)) = (channel::<()>(), channel());
    let waits = move || {
        begin.send(()).unwrap();
        let _ = goes.recv();
    };
    shared.senders.threads.run(0, waits).unwrap();
    begun.recv().unwrap();
    go
}
