//! Bodies that are written to temporary files: what waits for a disk that stands still, and what
//! does not.

use super::bench::{Bench, Client, body_of, options};
use crate::options::Options;
use crate::scoreboard::SPOOLED;
use crate::states::Phase;
use crate::sys::{Nanos, SECOND};
use std::path::PathBuf;

const MEMORY: usize = 1000;
const GET: &[u8] = b"GET /get HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn head(length: usize) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n").into_bytes()
}

/// A request with a body of a length.
fn upload(length: usize) -> Vec<u8> {
    [head(length), body(length)].concat()
}

fn body(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place % 251) as u8).collect()
}

fn bench() -> Bench {
    bench_with(options())
}

fn bench_with(options: Options) -> Bench {
    Bench::new(Options {
        body_memory: MEMORY as u64,
        ..options
    })
}

/// Bytes and files that count as taken by spooled bodies.
fn taken(bench: &Bench) -> (u64, usize) {
    (
        bench.shared.scoreboard.get(SPOOLED),
        bench.shared.files.get(),
    )
}

/// A client of whose body a part is being written by a disk that stands still.
fn storing(bench: &mut Bench, length: usize, sent: usize) -> Client {
    let client = bench.connect();
    bench.stop_disk();
    bench.send(&client, &[head(length), body(sent)].concat());
    assert_eq!(client.phase(), Phase::Storing);
    client
}

fn answer(bench: &mut Bench, client: &Client, length: usize) {
    let waiting = bench.take();
    assert!(body_of(&waiting.body) == body(length));
    bench.answer(&waiting, OK);
    assert_eq!(client.statuses(), [200]);
}

#[test]
fn others_are_served_while_the_disk_stands_still_and_the_upload_after_that() {
    let mut bench = bench();
    let client = storing(&mut bench, 5000, 3000);
    let other = bench.connect();
    for request in [GET.to_vec(), upload(MEMORY)] {
        bench.send(&other, &request);
        let waiting = bench.take();
        bench.answer(&waiting, OK);
        assert_eq!(other.statuses(), [200]);
    }
    // It is not read: what its client goes on to send waits in the kernel.
    bench.send(&client, &body(5000)[3000..]);
    assert_eq!(client.phase(), Phase::Storing);
    assert!(bench.ready.is_empty());
    bench.start_disk();
    answer(&mut bench, &client, 5000);
    assert_eq!(client.phase(), Phase::Reading);
}

#[test]
fn a_body_that_came_whole_and_the_request_behind_it_wait_for_the_disk() {
    let mut bench = bench();
    let client = bench.connect();
    bench.stop_disk();
    bench.send(&client, &[upload(5000), GET.to_vec()].concat());
    assert_eq!(client.phase(), Phase::Storing);
    assert!(bench.ready.is_empty());
    bench.start_disk();
    answer(&mut bench, &client, 5000);
    let waiting = bench.take();
    assert_eq!(waiting.request.head.path(&waiting.request.bytes), b"/get");
}

#[test]
fn what_comes_at_once_is_written_in_one_piece_within_bounds() {
    let mut bench = bench_with(Options {
        store_bytes: 20_000,
        receive_bytes: 10_000,
        ..options()
    });
    let client = storing(&mut bench, 100_000, 100_000);
    let state = client.connection.lock();
    let read = 30_000; // after 20,000 with the head a little is missing
    let received = read - head(100_000).len() as u64;
    assert_eq!(state.exchange.body_received, received);
    drop(state);
    bench.start_disk();
    answer(&mut bench, &client, 100_000);
}

#[test]
fn a_client_is_not_blamed_for_the_time_of_the_disk() {
    let mut bench = bench();
    let client = storing(&mut bench, 5000, 3000);
    bench.pass(3600 * SECOND);
    assert_eq!(client.phase(), Phase::Storing);
    bench.start_disk();
    assert_eq!(client.phase(), Phase::Reading);
    bench.pass(options().body_timeout - SECOND);
    assert_eq!(client.phase(), Phase::Reading);
    bench.pass(10 * SECOND);
    assert_eq!(client.statuses(), [408]);
}

#[test]
fn no_body_lasts_longer_than_it_may_not_for_the_disk_either() {
    let mut allowed = options();
    allowed.budgets.body_time = 60 * SECOND;
    let mut bench = bench_with(allowed);
    let client = storing(&mut bench, 5000, 3000);
    bench.pass(59 * SECOND);
    assert_eq!(client.phase(), Phase::Storing);
    bench.pass(2 * SECOND);
    assert_eq!(client.statuses(), [507]);
    assert_eq!(taken(&bench), (3000, 1)); // they are on the disk as long as that stands still
    bench.start_disk();
    assert_eq!(taken(&bench), (0, 0));
    assert!(client.statuses().is_empty());
}

#[test]
fn a_connection_that_ends_while_it_waits_for_the_disk_gives_its_budgets_back_once() {
    let ends: [fn(&mut Bench, &Client); 3] = [
        |bench, client| bench.reset(client), // found when the disk goes on
        |bench, client| {
            bench.pass(2 * options().evict_idle);
            client.put(b"input does not save it: it is not read");
            assert!(bench.evict());
            assert!(client.is_closed());
        },
        |bench, client| {
            bench.shared.closed.set(true);
            bench.turn();
            assert!(client.is_closed());
        },
    ];
    for end in ends {
        let mut bench = bench();
        let client = storing(&mut bench, 5000, 3000);
        end(&mut bench, &client);
        assert_eq!(taken(&bench), (3000, 1));
        bench.start_disk();
        bench.shared.spooling.disk.catch_up();
        assert!(client.is_closed());
        assert_eq!(taken(&bench), (0, 0));
        assert!(bench.ready.is_empty());
    }
}

#[test]
fn rfc4918_11_5_a_disk_that_takes_nothing_is_a_507() {
    let mut bench = bench_with(Options {
        temp_dir: PathBuf::from("/there/is/no/such/directory"),
        ..options()
    });
    for length in [2000, 200_000] {
        let client = bench.connect();
        bench.send(&client, &upload(length));
        assert_eq!(client.statuses(), [507]);
        bench.end(&client);
        assert!(client.is_closed());
    }
    assert_eq!(taken(&bench), (0, 0));
}

#[test]
fn while_enough_waits_for_the_disk_no_more_is_read_than_the_memory_takes() {
    let mut bench = bench_with(Options {
        store_bytes: 5000,
        max_storing: 6000,
        ..options()
    });
    let first = storing(&mut bench, 5000, 3000);
    let second = bench.connect();
    bench.send(&second, &head(5000));
    bench.send(&second, &body(5000));
    assert_eq!(second.phase(), Phase::Storing);
    let received = |client: &Client| client.connection.lock().exchange.body_received;
    assert_eq!((received(&first), received(&second)), (3000, MEMORY as u64));
    let small = bench.connect();
    bench.send(&small, &head(MEMORY));
    bench.send(&small, &body(MEMORY));
    answer(&mut bench, &small, MEMORY);
    bench.start_disk();
    answer(&mut bench, &second, 5000);
    bench.send(&first, &body(5000)[3000..]);
    answer(&mut bench, &first, 5000);
    bench.shared.spooling.disk.catch_up();
    assert_eq!(taken(&bench), (0, 0));
}

#[test]
fn a_drain_waits_for_the_disk() {
    let mut bench = bench();
    let client = storing(&mut bench, 5000, 5000);
    bench.shared.draining.set(true);
    let long: Nanos = 100 * SECOND;
    bench.pass(long);
    assert_eq!(client.phase(), Phase::Storing);
    bench.start_disk();
    let waiting = bench.take();
    assert!(body_of(&waiting.body) == body(5000));
}
