//! Threads that lead, follow, and wait for a disk.

use super::bench::{Bench, fake_time, options, scoreboard};
use crate::event_loop::{Leader, Reactor, ReadBuffers, Step};
use crate::leader_followers::{Crew, Turn};
use crate::shared::Hub;
use crate::states::Fate;
use crate::sys;
use crate::wire;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn crew() -> (Hub, Crew) {
    let hub = Hub::new(options(), scoreboard(2)).unwrap();
    let crew = Crew::new(Reactor::new(&hub, Vec::new()));
    (hub, crew)
}

fn lead(hub: &Hub, crew: &Crew) -> Option<Step> {
    let mut buffers = Box::new(ReadBuffers::new(64));
    crew.lead_attached(hub, &mut buffers, &mut 0)
}

#[test]
fn a_parked_thread_leads_where_a_call_lasts_a_tick() {
    assert!(fake_time().is_none());
    let (hub, crew) = crew();
    // This thread leads, and goes to the application.
    assert!(matches!(lead(&hub, &crew), Some(Step::Blocked)));
    crew.count(&hub);
    thread::scope(|scope| {
        let follower = scope.spawn(|| crew.lead_or_park(&hub));
        let monitor = scope.spawn(|| crew.watch(&hub));
        while !hub.polling.get() {
            assert!(!follower.is_finished());
            thread::yield_now();
        }
        // It leads until the end, and the thread that comes back from its call does not.
        assert!(lead(&hub, &crew).is_none());
        hub.closed.set(true);
        crew.interrupt(&hub);
        assert!(matches!(follower.join().unwrap(), Turn::Over));
        monitor.join().unwrap();
    });
}

#[test]
fn a_leader_that_panics_leaves_leadership_to_others() {
    let (hub, crew) = crew();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        crew.with_leadership(|_| panic!("a defect"));
    }));
    assert!(panicked.is_err());
    assert!(!crew.is_led());
    assert!(
        crew.with_leadership(|reactor| reactor.run(&hub, Leader::Attached, &mut 0))
            .is_some()
    );
    assert!(matches!(lead(&hub, &crew), Some(Step::Blocked)));
}

#[test]
fn a_leader_that_holds_the_interpreter_lock_gives_it_up_in_time() {
    let (hub, crew) = crew();
    let mut buffers = Box::new(ReadBuffers::new(64));
    let mut until = 0;
    crew.lead_attached(&hub, &mut buffers, &mut until).unwrap();
    assert!(until > sys::monotonic() - sys::SECOND);
    until = sys::monotonic() - 1;
    // Not even a listener's event is looked at any more.
    let step = crew.lead_attached(&hub, &mut buffers, &mut until);
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
        let sending = scope
            .spawn(|| wire::send_region(&bench.hub, &waiting.connection, file, 0, 10_000, b"end"));
        client.await_disk();
        // The leader is free to act on the connection: there is room, or its client is gone.
        assert!(waiting.connection.lock().output.is_in_flight());
        assert!(!waiting.connection.find_gone());
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
        let hub = &bench.hub;
        let sending =
            scope.spawn(move || wire::send_region(hub, &connection, file, 0, 10_000, b""));
        client.await_disk();
        // Another thread ends the response early.
        let mut held = waiting.connection.lock();
        held.fate = Fate::Reset;
        waiting
            .connection
            .give_back(hub, &mut held, sys::monotonic());
        drop(held);
        bench.reactor.run(hub, Leader::Attached, &mut 0);
        bench.reactor.attend(hub);
        assert!(client.is_shut() && !client.is_closed());
        client.start_disk();
        assert!(sending.join().unwrap().is_err());
        bench.reactor.attend(hub);
    });
    assert!(client.is_reset());
}
