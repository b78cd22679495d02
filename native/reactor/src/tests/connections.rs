//! What happens to a connection, and when: linger, drain, deadlines, eviction, turns.

use super::bench::{Bench, Client, body_of, options};
use crate::connection::Connection;
use crate::leader::Leader;
use crate::log_queue::Entry;
use crate::next_request;
use crate::options::{Checks, Options};
use crate::output_spool;
use crate::request::Waiting;
use crate::responding;
use crate::scoreboard::{LIVE, SLOW_READER, SPOOLED};
use crate::slow_path_estimate::PathHash;
use crate::states::{Fate, Input, Phase};
use crate::sys::{MILLISECOND, Nanos, SECOND};
use std::sync::Arc;

const GET: &[u8] = b"GET /get HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const LAST_WITH_BODY: &[u8] =
    b"POST /last HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx";
const CHECK: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn serve(bench: &mut Bench, client: &Client, request: &[u8]) {
    bench.send(client, request);
    let waiting = bench.take();
    bench.answer(&waiting, OK);
    assert_eq!(client.statuses(), [200]);
}

/// A server that has a health path, and is healthy.
fn with_checks() -> Bench {
    let checks = Checks {
        health_path: Some(b"/healthz".to_vec()),
        healthy: b"ok\n".to_vec(),
        unhealthy: b"no\n".to_vec(),
        ..Checks::default()
    };
    let bench = Bench::new(Options {
        checks,
        ..options()
    });
    bench.shared.scoreboard.set(LIVE, 1);
    bench
}

fn refusals(bench: &Bench) -> Vec<u16> {
    let refused = bench.logged.iter().filter_map(|entry| match entry {
        Entry::Refused(note) => Some(note.refusal.status),
        _ => None,
    });
    refused.collect()
}

// -- lingering ----------------------------------------------------------------------------------

#[test]
fn rfc9112_9_6_a_connection_is_closed_for_writing_first_and_then_read_from() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    serve(&mut bench, &client, LAST_WITH_BODY);
    assert!(client.is_shut() && !client.is_closed());
    bench.send(&client, b"more that is not read");
    assert!(!client.is_closed());
    bench.end(&client);
    assert!(client.is_closed() && !client.is_reset());
}

#[test]
fn a_lingering_connection_on_which_nothing_arrives_is_closed_after_a_while() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    serve(&mut bench, &client, LAST_WITH_BODY);
    bench.pass(options().linger_idle - 1);
    assert!(!client.is_closed());
    bench.pass(options().sweep_interval + 1);
    assert!(client.is_closed());
}

#[test]
fn a_client_that_goes_on_sending_is_lingered_for_a_bounded_time() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    serve(&mut bench, &client, LAST_WITH_BODY);
    let mut passed = 0;
    while !client.is_closed() {
        assert!(passed <= options().linger + 2 * SECOND);
        bench.send(&client, b"x");
        bench.pass(SECOND);
        passed += SECOND;
    }
    assert!(passed >= options().linger);
}

#[test]
fn a_client_that_sends_without_end_is_lingered_for_a_bounded_number_of_bytes() {
    let mut bench = Bench::new(Options {
        linger_bytes: 1_000_000,
        ..options()
    });
    let client = bench.connect();
    serve(&mut bench, &client, LAST_WITH_BODY);
    bench.send(&client, &vec![b'x'; 1_000_000]);
    assert!(!client.is_closed());
    bench.send(&client, b"x");
    assert!(client.is_closed());
}

#[test]
fn rfc9112_9_6_a_client_that_asked_for_the_close_is_closed_where_nothing_can_be_lost() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    serve(&mut bench, &client, LAST);
    assert!(client.is_closed() && !client.is_reset());
}

#[test]
fn a_client_that_has_sent_more_than_its_last_request_is_lingered() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    serve(&mut bench, &client, &[LAST, b"x"].concat());
    assert!(client.is_shut() && !client.is_closed());
    let later = bench.connect();
    bench.send(&later, LAST);
    let waiting = bench.take();
    bench.send(&later, b"x");
    bench.answer(&waiting, OK);
    assert!(later.is_shut() && !later.is_closed());
}

#[test]
fn a_connection_that_had_another_response_is_lingered() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    serve(&mut bench, &client, GET);
    serve(&mut bench, &client, LAST);
    assert!(client.is_shut() && !client.is_closed());
}

// -- deadlines ----------------------------------------------------------------------------------

fn pass_in_steps(bench: &mut Bench, time: Nanos) {
    for _ in 0..time / (SECOND / 2) {
        bench.pass(SECOND / 2);
    }
}

#[test]
fn rfc9112_9_5_an_idle_connection_is_closed_without_a_word() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    serve(&mut bench, &client, GET);
    pass_in_steps(&mut bench, options().keep_alive - SECOND);
    assert!(!client.is_closed());
    pass_in_steps(&mut bench, 3 * SECOND);
    assert!(client.is_closed());
    assert_eq!(client.received(), "");
    assert!(refusals(&bench).is_empty());
}

#[test]
fn a_head_that_does_not_arrive_in_time_is_answered_with_408() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    bench.send(&client, &GET[..10]);
    pass_in_steps(&mut bench, options().header_timeout - SECOND);
    bench.send(&client, &GET[10..12]); // which puts nothing off
    assert_eq!(client.statuses(), [0; 0]);
    pass_in_steps(&mut bench, 3 * SECOND);
    assert_eq!(client.statuses(), [408]);
    assert!(client.is_shut());
    assert_eq!(refusals(&bench), [408]);
}

#[test]
fn a_head_that_arrived_before_its_deadline_is_in_time_however_late_it_is_read() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    bench.send(&client, &GET[..10]);
    bench.stand_still(options().header_timeout + 5 * SECOND);
    bench.send(&client, &GET[10..]);
    bench.take();
}

#[test]
fn a_body_that_comes_too_slowly_is_answered_with_408() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n";
    bench.send(&client, head);
    for _ in 0..15 {
        bench.send(&client, b"x");
        bench.pass(SECOND);
    }
    assert_eq!(client.statuses(), [0; 0]);
    pass_in_steps(&mut bench, 7 * SECOND);
    assert_eq!(client.statuses(), [408]);
}

#[test]
fn a_client_that_takes_no_byte_of_its_answer_is_reset() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    bench.send(&client, GET);
    client.set_room(10);
    let waiting = bench.take();
    bench.answer(&waiting, OK);
    assert_eq!(client.phase(), Phase::Flushing);
    pass_in_steps(&mut bench, options().write_timeout - SECOND);
    assert!(!client.is_closed());
    pass_in_steps(&mut bench, 3 * SECOND);
    assert!(client.is_reset());
}

#[test]
fn what_the_client_did_not_take_is_sent_when_there_is_room() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    bench.send(&client, GET);
    client.set_room(10);
    let waiting = bench.take();
    bench.answer(&waiting, OK);
    bench.make_room(&client, usize::MAX);
    assert_eq!(client.received().as_bytes(), OK);
    assert_eq!(client.phase(), Phase::Reading);
    serve(&mut bench, &client, GET);
}

// -- draining -----------------------------------------------------------------------------------

#[test]
fn a_drain_ends_when_the_last_request_is_answered() {
    let mut bench = Bench::new(options());
    let (busy, idle) = (bench.connect(), bench.connect());
    bench.send(&busy, LAST);
    let waiting = bench.take();
    bench.shared.draining.set(true);
    bench.turn();
    pass_in_steps(&mut bench, options().drain_linger + SECOND);
    assert!(idle.is_closed() && !busy.is_closed());
    assert!(!bench.shared.drained.get());
    bench.answer(&waiting, OK);
    assert_eq!(busy.statuses(), [200]);
    bench.end(&busy);
    assert!(bench.shared.drained.get());
}

#[test]
fn a_request_that_arrives_in_a_drain_is_served_and_its_connection_closed() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    serve(&mut bench, &client, GET);
    bench.shared.draining.set(true);
    bench.turn();
    bench.send(&client, GET);
    bench.take();
}

#[test]
fn a_head_that_is_not_complete_in_a_drain_is_answered_with_503() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    bench.send(&client, &GET[..10]);
    bench.shared.draining.set(true);
    bench.turn();
    pass_in_steps(&mut bench, options().drain_head + SECOND);
    assert_eq!(client.statuses(), [503]);
}

#[test]
fn closing_cuts_off_what_is_handed_out_and_closes_the_rest() {
    let mut bench = Bench::new(options());
    let (busy, idle) = (bench.connect(), bench.connect());
    bench.send(&busy, GET);
    bench.take();
    bench.shared.closed.set(true);
    bench.turn();
    assert!(idle.is_closed());
    assert!(!busy.is_closed() && busy.is_shut());
}

#[test]
fn a_response_that_its_thread_ends_after_the_close_is_reported_as_cut_off() {
    for begun_to_send in [true, false] {
        let mut bench = Bench::new(options());
        let client = bench.connect();
        bench.send(&client, GET);
        client.set_room(10);
        let waiting = bench.take();
        if begun_to_send {
            bench.answer_part(&waiting, OK);
        }
        bench.shared.closed.set(true);
        bench.turn();
        let mut state = waiting.connection.lock();
        state.exchange.record = Some(Box::new("the record"));
        let now = crate::sys::monotonic();
        next_request::give_back(&waiting.connection, &bench.shared, &mut state, now);
        drop(state);
        bench
            .event_loop
            .run(&bench.shared, Leader::Detached, &mut 0);
        assert!(client.is_closed());
        let ends: Vec<bool> = bench
            .shared
            .log_queue
            .take()
            .into_iter()
            .filter_map(|entry| match entry {
                Entry::Finished(_, end) => Some(end.cut_off.is_some()),
                _ => None,
            })
            .collect();
        assert_eq!(ends, [begun_to_send]);
    }
}

// -- eviction -----------------------------------------------------------------------------------

#[test]
fn those_that_are_idle_for_longest_make_room_and_after_them_an_unfinished_head() {
    let mut bench = Bench::new(options());
    let oldest = bench.connect();
    bench.pass(SECOND / 10);
    let older = bench.connect();
    let busy = bench.connect();
    bench.send(&busy, GET);
    let in_head = bench.connect();
    bench.send(&in_head, &GET[..10]);
    bench.pass(options().evict_idle * 2);
    let newest = bench.connect();
    assert!(bench.evict());
    assert!(oldest.is_closed() && !older.is_closed());
    assert!(bench.evict());
    assert!(older.is_closed());
    assert!(!in_head.is_closed());
    assert!(bench.evict());
    assert!(in_head.is_closed());
    assert!(!bench.evict());
    assert!(![busy, newest].iter().any(Client::is_closed));
}

#[test]
fn a_connection_whose_request_is_under_way_is_not_idle() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    bench.pass(options().evict_idle * 2);
    client.put(GET); // and no event has told of it
    assert!(!bench.evict());
    assert!(!client.is_closed());
}

// -- turns --------------------------------------------------------------------------------------

#[test]
fn a_client_that_pipelines_checks_is_one_entry_of_the_queue_and_others_are_served_between() {
    let mut bench = with_checks();
    let (greedy, modest) = (bench.connect(), bench.connect());
    greedy.put(&CHECK.repeat(2000));
    modest.put(GET);
    bench.tell_of_input(&greedy);
    bench.tell_of_input(&modest);
    let mut most = 0;
    while bench.ready.is_empty() {
        bench.step();
        most = most.max(bench.event_loop.queued());
    }
    assert!(greedy.statuses().len() < 100);
    assert!(most <= 2, "{most} entries for two connections");
    bench.turn();
    assert_eq!(bench.shared.connection_count(), 2);
}

#[test]
fn each_request_that_is_given_to_another_thread_has_its_own_bytes() {
    let mut bench = Bench::new(options());
    let clients = [bench.connect(), bench.connect()];
    let names: [&[u8]; 2] = [b"first", b"second"];
    for client in &clients {
        serve(&mut bench, client, GET);
    }
    for (client, name) in clients.iter().zip(names) {
        // Another thread has answered, and posts the connection with its next request received.
        client.put(&[b"GET /", name, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
        let mut state = client.connection.lock();
        state.input = Input::Possible;
        bench.shared.post(&client.connection, &mut state);
    }
    let waiting = bench.event_loop.attend(&bench.shared);
    let targets = waiting.iter().map(|each| {
        let (head, bytes) = (&each.request.head, &each.request.bytes);
        head.target.of(bytes).to_vec()
    });
    assert_eq!(
        targets.collect::<Vec<_>>(),
        [b"/first".to_vec(), b"/second".to_vec()]
    );
}

#[test]
fn an_answer_that_waits_for_the_next_one_is_sent_if_that_takes_its_time() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    bench.send(&client, &GET.repeat(2));
    let first = bench.take();
    let mut state = first.connection.lock();
    assert!(responding::cork(
        &bench.shared,
        &mut state,
        first.number,
        OK
    ));
    bench.shared.slow_paths.note(PathHash::of(b"/get"), 0);
    next_request::give_back(
        &first.connection,
        &bench.shared,
        &mut state,
        crate::sys::monotonic(),
    );
    drop(state);
    bench.step();
    assert_eq!(bench.ready.len(), 1);
    assert_eq!(client.received(), "");
    bench.turn(); // another thread leads while the second call lasts
    assert_eq!(client.statuses(), [200]);
    let second = bench.take();
    assert!(!second.connection.lock().output.is_corked());
    bench.answer(&second, OK);
    assert_eq!(client.statuses(), [200]);
}

/// Note as many calls of a time as have answers wait, or not.
fn note_calls(bench: &Bench, time: Nanos) {
    for _ in 0..32 {
        bench.shared.slow_paths.note(PathHash::of(b"/get"), time);
    }
}

/// Clients whose requests one poll has brought, of a path whose calls have proved fast; the first
/// request is with the application.
fn polled_together(bench: &mut Bench, count: usize) -> (Vec<Client>, Waiting) {
    note_calls(bench, bench.shared.options.held_call);
    let clients: Vec<_> = (0..count)
        .map(|_| {
            let client = bench.connect();
            client.put(GET);
            bench.tell_of_input(&client);
            client
        })
        .collect();
    bench.step();
    (clients, bench.take())
}

/// Answer as the application's thread does, which gives the lock up in between; return whether the
/// answer waits, and whether the leader has to hurry.
fn answer_with(bench: &Bench, waiting: &Waiting, meanwhile: impl FnOnce()) -> (bool, bool) {
    let lock = || waiting.connection.lock();
    let held = responding::cork(&bench.shared, &mut lock(), waiting.number, OK);
    if !held {
        let sent = responding::send_small(&bench.shared, &waiting.connection, &mut lock(), OK);
        assert!(sent.is_ok());
    }
    meanwhile();
    let now = crate::sys::monotonic();
    let hurry = next_request::give_back(&waiting.connection, &bench.shared, &mut lock(), now);
    (held, hurry)
}

fn answer_or_hold(bench: &Bench, waiting: &Waiting) -> bool {
    answer_with(bench, waiting, || ()).0
}

#[test]
fn answers_to_the_requests_of_one_poll_are_sent_together_and_before_the_last_call() {
    let mut bench = Bench::new(options());
    let (clients, first) = polled_together(&mut bench, 3);
    assert!(answer_or_hold(&bench, &first));
    bench.step();
    let second = bench.take();
    assert!(answer_or_hold(&bench, &second));
    assert_eq!([0, 1].map(|it| clients[it].received()), ["", ""]);
    bench.step();
    assert_eq!([0, 1].map(|it| clients[it].statuses()), [[200], [200]]);
    assert!(!answer_or_hold(&bench, &bench.ready[0])); // there is nothing to wait for
    assert_eq!(clients[2].statuses(), [200]);
    assert!(clients.iter().all(|it| it.phase() == Phase::Reading));
    bench.ready.clear();
    serve(&mut bench, &clients[0], GET);
}

#[test]
fn no_answer_waits_for_a_call_that_may_last() {
    let mut bench = Bench::new(options());
    let (clients, first) = polled_together(&mut bench, 1);
    answer_or_hold(&bench, &first);
    assert_eq!(clients[0].statuses(), [200]);
    let others = [GET, b"GET /never-called HTTP/1.1\r\nHost: a\r\n\r\n", GET].map(|request| {
        let client = bench.connect();
        client.put(request);
        bench.tell_of_input(&client);
        client
    });
    bench.step();
    let second = bench.take();
    assert!(answer_or_hold(&bench, &second));
    assert_eq!(others[0].received(), "");
    bench.step();
    assert_eq!(others[0].statuses(), [200]);
}

#[test]
fn an_answer_waits_for_no_more_than_some_calls_and_a_millisecond() {
    let mut bench = Bench::new(options());
    let (clients, first) = polled_together(&mut bench, 40);
    assert!(answer_or_hold(&bench, &first));
    for _ in 1..16 {
        bench.step();
        let next = bench.take();
        assert!(answer_or_hold(&bench, &next));
    }
    assert_eq!(clients[0].received(), "");
    bench.step();
    assert!(clients[..16].iter().all(|it| it.statuses() == [200]));
    let next = bench.take();
    assert!(answer_or_hold(&bench, &next));
    bench.stand_still(MILLISECOND);
    bench.step();
    assert_eq!(clients[16].statuses(), [200]);
}

#[test]
fn an_answer_that_waits_is_sent_by_the_thread_that_leads_while_the_next_call_lasts() {
    let mut bench = Bench::new(options());
    let (clients, first) = polled_together(&mut bench, 3);
    assert!(answer_or_hold(&bench, &first));
    bench.step();
    bench.turn();
    assert_eq!(clients[0].statuses(), [200]);
}

#[test]
fn an_answer_waits_only_where_calls_take_as_long_as_it_pays_for() {
    let mut bench = Bench::new(options());
    let (_clients, first) = polled_together(&mut bench, 7);
    assert!(answer_or_hold(&bench, &first));
    let options = options();
    for (time, held) in [
        (options.held_call - 1, false),
        (options.held_call, true),
        (options.longest_held_call, true),
        (options.longest_held_call + 1, false),
    ] {
        note_calls(&bench, time);
        bench.step();
        let next = bench.take();
        assert_eq!(answer_or_hold(&bench, &next), held);
    }
    note_calls(&bench, options.held_call);
    // Such as one that the system has interrupted, or one that had less to do.
    let path = PathHash::of(b"/get");
    bench.shared.slow_paths.note(path, options.held_call - 1);
    bench.step();
    let next = bench.take();
    assert!(answer_or_hold(&bench, &next));
}

#[test]
fn no_answer_waits_where_another_thread_leads_or_none_is_there_to_send_it() {
    let mut bench = Bench::new(options());
    let (clients, first) = polled_together(&mut bench, 4);
    bench.shared.led.set(true);
    assert!(!answer_or_hold(&bench, &first));
    bench.shared.led.set(false);
    bench.step();
    bench.shared.attended.set(false);
    let second = bench.take();
    assert!(!answer_or_hold(&bench, &second));
    bench.shared.attended.set(true);
    assert!(clients[..2].iter().all(|it| it.statuses() == [200]));
}

#[test]
fn an_answer_that_waits_reaches_its_client_before_the_end() {
    for ends in [
        |it: &Bench| it.shared.closed.set(true),
        |it: &Bench| {
            it.shared.draining.set(true);
        },
    ] {
        let mut bench = Bench::new(options());
        let (clients, first) = polled_together(&mut bench, 2);
        assert!(answer_or_hold(&bench, &first));
        ends(&bench);
        bench.step();
        assert_eq!(clients[0].statuses(), [200]);
    }
}

#[test]
fn a_connection_whose_answer_waits_is_not_idle() {
    let mut bench = Bench::new(options());
    let (clients, first) = polled_together(&mut bench, 2);
    assert!(answer_or_hold(&bench, &first));
    assert!(!bench.evict());
    bench.step();
    assert_eq!(clients[0].statuses(), [200]);
}

#[test]
fn what_the_kernel_does_not_take_of_an_answer_that_has_waited_is_sent_when_there_is_room() {
    let mut bench = Bench::new(options());
    let (clients, first) = polled_together(&mut bench, 2);
    clients[0].set_room(10);
    assert!(answer_or_hold(&bench, &first));
    bench.step();
    bench.turn();
    assert_eq!(clients[0].phase(), Phase::Flushing);
    bench.make_room(&clients[0], usize::MAX);
    assert_eq!(clients[0].statuses(), [200]);
    assert_eq!(clients[0].phase(), Phase::Reading);
}

#[test]
fn what_a_client_sends_while_its_answer_waits_is_its_next_request() {
    let mut bench = Bench::new(options());
    let (clients, first) = polled_together(&mut bench, 2);
    assert!(answer_or_hold(&bench, &first));
    clients[0].put(GET);
    bench.tell_of_input(&clients[0]);
    bench.step();
    bench.ready.clear();
    bench.turn();
    assert_eq!(clients[0].statuses(), [200]);
    let next = bench.take();
    assert!(Arc::ptr_eq(&next.connection, &clients[0].connection));
}

#[test]
fn a_client_that_leaves_while_its_answer_waits_is_let_go() {
    let mut bench = Bench::new(options());
    let (clients, first) = polled_together(&mut bench, 2);
    assert!(answer_or_hold(&bench, &first));
    bench.reset(&clients[0]);
    bench.turn();
    assert!(clients[0].is_closed());
}

#[test]
fn a_leader_that_polls_by_the_time_an_answer_begins_to_wait_is_woken() {
    let mut bench = Bench::new(options());
    let (_clients, first) = polled_together(&mut bench, 2);
    let led = Arc::clone(&bench.shared.led);
    assert_eq!(answer_with(&bench, &first, || led.set(true)), (true, true));
}

#[test]
fn an_answer_that_is_sent_with_an_earlier_one_of_its_connection_does_not_wait_for_others() {
    let mut bench = Bench::new(options());
    note_calls(&bench, bench.shared.options.held_call);
    let pipelining = bench.connect();
    pipelining.put(&GET.repeat(2));
    bench.tell_of_input(&pipelining);
    for _ in 0..2 {
        let other = bench.connect();
        other.put(GET);
        bench.tell_of_input(&other);
    }
    bench.step();
    let first = bench.take();
    assert!(answer_or_hold(&bench, &first)); // the second request is here
    // Another leader has polled while the call lasted, and has taken a part of that.
    pipelining.put(GET);
    bench.tell_of_input(&pipelining);
    bench.step();
    let second = bench.take();
    assert!(Arc::ptr_eq(&second.connection, &pipelining.connection));
    answer_or_hold(&bench, &second);
    for _ in 0..2 {
        bench.step();
        let next = bench.take();
        answer_or_hold(&bench, &next);
    }
    bench.step();
    assert_eq!(pipelining.statuses(), [200, 200]);
    let third = bench.take();
    assert!(Arc::ptr_eq(&third.connection, &pipelining.connection));
    bench.step();
    assert_eq!(pipelining.phase(), Phase::HandedOut);
}

#[test]
fn rfc9110_9_2_1_no_answer_to_a_method_that_is_not_safe_waits() {
    let mut bench = Bench::new(options());
    let (_clients, first) = polled_together(&mut bench, 1);
    answer_or_hold(&bench, &first);
    for method in ["DELETE", "GET", "GET"] {
        let client = bench.connect();
        client.put(format!("{method} /get HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        bench.tell_of_input(&client);
    }
    for held in [false, true] {
        bench.step();
        let next = bench.take();
        assert_eq!(answer_or_hold(&bench, &next), held);
    }
}

/// A request of a path whose calls have proved fast, while no thread leads.
fn fast_call(bench: &mut Bench) -> (Client, Arc<Connection>) {
    let client = bench.connect();
    bench.shared.slow_paths.note(PathHash::of(b"/get"), 0);
    bench.send(&client, GET);
    (client, bench.take().connection)
}

fn hold(bench: &Bench, connection: &Arc<Connection>, block: &[u8]) -> bool {
    let path = PathHash::of(b"/get");
    responding::hold(
        &bench.shared,
        connection,
        &mut connection.lock(),
        path,
        block,
    )
}

#[test]
fn blocks_of_a_fast_call_leave_together_with_its_end() {
    let mut bench = Bench::new(options());
    let (client, connection) = fast_call(&mut bench);
    for block in [OK, b"a", b"b"] {
        assert!(hold(&bench, &connection, block));
    }
    assert_eq!(client.received(), "");
    let mut state = connection.lock();
    assert!(responding::send_small(&bench.shared, &connection, &mut state, b"end").is_ok());
    next_request::give_back(
        &connection,
        &bench.shared,
        &mut state,
        crate::sys::monotonic(),
    );
    drop(state);
    assert!(client.received().ends_with("okabend"));
    assert_eq!(client.phase(), Phase::Reading);
    assert!(!bench.shared.has_posts()); // no leader looks at the connection in vain
}

#[test]
fn a_block_that_waits_is_sent_where_nothing_follows_it() {
    let mut bench = Bench::new(options());
    let (client, connection) = fast_call(&mut bench);
    assert!(hold(&bench, &connection, OK));
    assert!(responding::send_last(&bench.shared, &connection, &mut connection.lock()).is_ok());
    assert_eq!(client.statuses(), [200]);
}

#[test]
fn the_next_leader_sends_a_block_that_waits() {
    let mut bench = Bench::new(options());
    let (client, connection) = fast_call(&mut bench);
    assert!(hold(&bench, &connection, OK));
    assert_eq!(client.received(), "");
    bench.turn(); // another thread leads while the call lasts
    assert_eq!(client.statuses(), [200]);
    assert!(hold(&bench, &connection, b"more"));
    bench.turn();
    assert_eq!(client.received(), "more");
}

#[test]
fn a_block_waits_only_where_another_thread_is_there_and_has_to_be_woken_by_none() {
    let mut bench = Bench::new(options());
    let (_client, connection) = fast_call(&mut bench);
    bench.shared.led.set(true);
    assert!(!hold(&bench, &connection, OK));
    bench.shared.led.set(false);
    bench.shared.attended.set(false);
    assert!(!hold(&bench, &connection, OK));
    bench.shared.attended.set(true);
    let unknown = PathHash::of(b"/never-called");
    let mut state = connection.lock();
    assert!(!responding::hold(
        &bench.shared,
        &connection,
        &mut state,
        unknown,
        OK
    ));
    drop(state);
    assert!(!hold(&bench, &connection, &[b'x'; 32 * 1024 + 1]));
    assert!(hold(&bench, &connection, &[b'x'; 32 * 1024]));
    assert!(!hold(&bench, &connection, b"y"));
}

#[test]
fn a_response_that_ends_early_resets_its_connection() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    bench.send(&client, GET);
    let waiting = bench.take();
    waiting.connection.lock().exchange.fate = Fate::Reset;
    bench.answer(
        &waiting,
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
    );
    assert!(client.is_reset());
}

#[test]
fn a_client_that_resets_within_a_head_is_logged_and_closed() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    bench.send(&client, &GET[..10]);
    bench.reset(&client);
    assert!(client.is_closed());
    assert_eq!(refusals(&bench), [499]);
    bench.pass(100 * MILLISECOND);
}

// -- interim responses --------------------------------------------------------------------------

#[test]
fn rfc9110_15_2_1_a_continue_of_which_the_kernel_takes_a_part_is_sent_to_its_end() {
    const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
    for room in 0..CONTINUE.len() {
        let mut bench = Bench::new(options());
        let client = bench.connect();
        client.set_room(room);
        bench.send(
            &client,
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        );
        assert_eq!(client.received(), CONTINUE[..room]);
        bench.make_room(&client, usize::MAX);
        assert_eq!(client.received(), CONTINUE[room..]);
        bench.send(&client, b"hello");
        let waiting = bench.take();
        assert_eq!(body_of(&waiting.body), b"hello");
        bench.answer(&waiting, OK);
        assert_eq!(client.statuses(), [200]);
    }
}

#[test]
fn an_answer_comes_behind_what_is_left_of_a_continue() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    client.set_room(10);
    bench.send(
        &client,
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    );
    bench.send(&client, b"hello");
    let waiting = bench.take();
    bench.answer(&waiting, OK);
    bench.make_room(&client, usize::MAX);
    assert_eq!(client.statuses(), [100, 200]);
}

// -- unsent responses ---------------------------------------------------------------------------

#[test]
fn what_is_unsent_is_counted_until_it_is_taken_or_dropped() {
    let mut options = options();
    options.budgets.unsent = OK.len() as u64 * 5 / 2;
    let mut bench = Bench::new(options);
    for round in 1..4 {
        let mut answer_unread = || {
            let client = bench.connect();
            client.set_room(0);
            bench.send(&client, GET);
            let waiting = bench.take();
            bench.answer(&waiting, OK);
            bench.pass(SECOND);
            client
        };
        let clients = [answer_unread(), answer_unread()];
        assert!(clients.iter().all(|client| !client.is_closed()));
        let last = answer_unread(); // one too many
        let [slowest, second] = clients;
        assert!(slowest.is_reset());
        assert_eq!(bench.shared.scoreboard.get(SLOW_READER), round);
        bench.make_room(&last, usize::MAX);
        assert_eq!(last.statuses(), [200]);
        assert!(!second.is_closed());
        bench.reset(&second);
    }
}

#[test]
fn what_is_moved_to_a_file_is_sent_in_its_order_and_the_file_ends_with_its_last_byte() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    bench.send(&client, GET);
    let waiting = bench.take();
    client.set_room(3);
    bench.answer_part(&waiting, b"abcdef");
    assert!(output_spool::move_to_spool(
        &bench.shared,
        &client.connection
    ));
    assert_eq!(client.connection.lock().output.memory(), 0);
    assert_eq!(bench.shared.scoreboard.get(SPOOLED), 3);
    bench.answer_part(&waiting, b"ghi");
    // While the thread writes, the leader sends what is in front of it.
    let moved = client.connection.lock().output.begin_move();
    let (pieces, spool) = moved.unwrap();
    bench.make_room(&client, usize::MAX);
    assert_eq!(client.received(), "abcdef");
    assert_eq!(client.connection.lock().output.size, 3);
    assert_eq!(bench.shared.scoreboard.get(SPOOLED), 3);
    let mut state = client.connection.lock();
    state.output.end_move(pieces, spool, false); // the disk has not taken it
    drop(state);
    bench.make_room(&client, usize::MAX);
    assert_eq!(bench.shared.scoreboard.get(SPOOLED), 0);
    assert_eq!(client.received(), "ghi");
    assert_eq!(client.connection.lock().output.size, 0);
}

#[test]
fn a_file_that_is_written_to_when_the_response_is_given_up_is_given_back() {
    let mut bench = Bench::new(options());
    let client = bench.connect();
    bench.send(&client, GET);
    let waiting = bench.take();
    client.set_room(0);
    bench.answer_part(&waiting, b"abc");
    assert!(output_spool::move_to_spool(
        &bench.shared,
        &client.connection
    ));
    bench.answer_part(&waiting, b"def");
    let (pieces, spool) = client.connection.lock().output.begin_move().unwrap();
    bench.reset(&client);
    assert_eq!(client.connection.lock().output.unsent(), 6);
    let mut state = client.connection.lock();
    state.output.end_move(pieces, spool, true);
    assert_eq!((state.output.size, state.output.memory()), (0, 0));
    drop(state);
    bench.turn();
    assert_eq!(bench.shared.scoreboard.get(SPOOLED), 0);
    assert_eq!(bench.shared.files.get(), 0);
}
