//! The kernel: each system call behind a safe function. The only module that makes any.
//!
//! What differs between systems is in `sys/linux.rs` and `sys/portable.rs`.
//!
//! What an `unsafe` block here calls in the C library is handed memory that a reference in scope
//! keeps alive; beside each stands why the call may be made.

use std::ffi::CString;
use std::io::{self, IoSlice};
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

#[cfg(all(target_os = "linux", not(feature = "portable")))]
#[path = "sys/linux.rs"]
mod platform;
#[cfg(not(all(target_os = "linux", not(feature = "portable"))))]
#[path = "sys/portable.rs"]
mod platform;

use platform::SEND_FLAGS;
pub use platform::{EXCLUSIVE_WAKE, NO_EVENT, Queue, RawEvent, socket_events};

/// What an event says of a socket.
#[derive(Clone, Copy)]
pub struct SocketEvents {
    pub input: bool,
    pub room: bool,
    /// The client has ended its side: the end comes behind the input.
    pub ended: bool,
    /// The connection is no more.
    pub broken: bool,
}

impl SocketEvents {
    /// Add what has happened since.
    pub fn add(&mut self, later: SocketEvents) {
        self.input |= later.input;
        self.room |= later.room;
        self.ended |= later.ended;
        self.broken |= later.broken;
    }
}

/// Nanoseconds on the monotonic clock.
pub type Nanos = u64;

pub const SECOND: Nanos = 1_000_000_000;
pub const MILLISECOND: Nanos = 1_000_000;

/// Descriptors that a forked child has to close, a bit each. A child cannot walk the
/// connections: a thread that is no more may have held their locks.
static OURS: [AtomicU64; 16384] = [const { AtomicU64::new(0) }; 16384];

/// Counts the forks between this process and the one that loaded the module.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// A descriptor that closes with its owner, but not in a child that was forked since.
#[derive(Debug)]
pub struct Fd {
    number: AtomicI32,
    generation: u32,
}

impl Fd {
    fn new(number: RawFd) -> Self {
        if let Some((word, bit)) = place(number) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
        Fd {
            number: AtomicI32::new(number),
            generation: GENERATION.load(Ordering::Relaxed),
        }
    }

    /// The number; -1 once it is closed.
    pub fn raw(&self) -> RawFd {
        self.number.load(Ordering::Relaxed)
    }

    /// Whether this process opened it: not in a child that was forked since.
    pub fn is_ours(&self) -> bool {
        self.generation == GENERATION.load(Ordering::Relaxed)
    }

    /// Close it now. Further calls do nothing.
    pub fn close(&self) {
        let number = self.number.swap(-1, Ordering::Relaxed);
        if number >= 0 && self.is_ours() {
            if let Some((word, bit)) = place(number) {
                word.fetch_and(!bit, Ordering::Relaxed);
            }
            // SAFETY: no pointer is passed; the number is ours, and is not used any more.
            unsafe { libc::close(number) };
        }
    }

    /// Give the number away: its new owner closes it.
    pub fn into_raw(self) -> RawFd {
        let number = self.number.swap(-1, Ordering::Relaxed);
        if let Some((word, bit)) = place(number) {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
        number
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        self.close();
    }
}

fn place(number: RawFd) -> Option<(&'static AtomicU64, u64)> {
    let number = usize::try_from(number).ok()?;
    Some((OURS.get(number / 64)?, 1 << (number % 64)))
}

/// Close every descriptor of the module, in a forked child; the parent keeps its own.
pub fn close_all_in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    for (index, word) in OURS.iter().enumerate() {
        let mut bits = word.swap(0, Ordering::Relaxed);
        while bits != 0 {
            let number = index * 64 + bits.trailing_zeros() as usize;
            // SAFETY: no pointer is passed; the bits name what this module has opened.
            unsafe { libc::close(number as RawFd) };
            bits &= bits - 1;
        }
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn count(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Return true if an error means that the connection is gone, or given up because of its client:
/// that is ETIMEDOUT where it takes no data, ENOBUFS where it reads too slowly.
pub fn is_disconnect(error: &io::Error) -> bool {
    use libc::{EBADF, ECONNRESET, ENOBUFS, ENOTCONN, EPIPE, ETIMEDOUT};
    matches!(
        error.raw_os_error(),
        Some(EPIPE | ECONNRESET | ENOTCONN | EBADF | ETIMEDOUT | ENOBUFS)
    )
}

/// The C library's text for an error, without Rust's "(os error 32)".
pub fn error_text(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

// -- clocks ---------------------------------------------------------------------------------

fn clock(id: libc::clockid_t) -> libc::timespec {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a timespec to write to.
    unsafe { libc::clock_gettime(id, &mut now) };
    now
}

/// The time on the monotonic clock.
pub fn monotonic() -> Nanos {
    #[cfg(test)]
    if let Some(now) = crate::tests::bench::fake_time() {
        return now;
    }
    let now = clock(libc::CLOCK_MONOTONIC);
    now.tv_sec as u64 * SECOND + now.tv_nsec as u64
}

/// Seconds since the epoch.
pub fn wall() -> f64 {
    let now = clock(libc::CLOCK_REALTIME);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// Whole seconds since the epoch, as the last tick of the kernel had it: good enough for Date.
pub fn wall_second() -> i64 {
    #[cfg(target_os = "linux")]
    return clock(libc::CLOCK_REALTIME_COARSE).tv_sec;
    #[cfg(not(target_os = "linux"))]
    return clock(libc::CLOCK_REALTIME).tv_sec;
}

/// The calling thread, as Python's `threading.get_ident` has it.
pub fn thread_ident() -> u64 {
    // SAFETY: no pointer is passed.
    unsafe { libc::pthread_self() as u64 }
}

// -- sockets --------------------------------------------------------------------------------

/// Where a client is; None for a unix socket.
pub type Peer = Option<(IpAddr, u16)>;

/// Accept a connection, non-blocking and not inherited by programs that the application starts.
pub fn accept(listener: RawFd) -> io::Result<(Fd, Peer)> {
    // SAFETY: all-zero bytes are a valid sockaddr_storage.
    let mut address: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let mut length = mem::size_of_val(&address) as libc::socklen_t;
    let pointer = (&raw mut address).cast::<libc::sockaddr>();
    let number = platform::accept(listener, pointer, &mut length)?;
    Ok((Fd::new(number), peer(&address)))
}

fn peer(address: &libc::sockaddr_storage) -> Peer {
    match i32::from(address.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family tells that the kernel wrote a sockaddr_in, which fits.
            let v4 = unsafe { &*(&raw const *address).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some((IpAddr::V4(ip), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: the family tells that the kernel wrote a sockaddr_in6, which fits.
            let v6 = unsafe { &*(&raw const *address).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            // A client of IPv4 at [::] is the same client as at 0.0.0.0.
            let ip = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4);
            Some((ip, u16::from_be(v6.sin6_port)))
        }
        _ => None,
    }
}

/// Receive what is there, up to the buffer's size; 0 at the end.
pub fn receive(socket: &Fd, buffer: &mut [u8]) -> io::Result<usize> {
    let pointer = buffer.as_mut_ptr().cast();
    // SAFETY: pointer and length are those of `buffer`.
    retry(|| count(unsafe { libc::recv(socket.raw(), pointer, buffer.len(), 0) }))
}

/// Look for input without taking it: an error tells of a reset.
pub fn peek(socket: &Fd) -> io::Result<usize> {
    let mut byte = 0u8;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    let pointer = (&raw mut byte).cast();
    // SAFETY: `pointer` is to a byte to write to.
    retry(|| count(unsafe { libc::recv(socket.raw(), pointer, 1, flags) }))
}

/// Copy what there is to receive, as far as the buffer holds it, and leave it there.
pub fn peek_into(socket: &Fd, buffer: &mut [u8]) -> io::Result<usize> {
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    let (pointer, size) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: pointer and size are those of `buffer`.
    retry(|| count(unsafe { libc::recv(socket.raw(), pointer, size, flags) }))
}

/// Send what the kernel takes.
pub fn send(socket: &Fd, data: &[u8]) -> io::Result<usize> {
    let pointer = data.as_ptr().cast();
    // SAFETY: pointer and length are those of `data`.
    retry(|| count(unsafe { libc::send(socket.raw(), pointer, data.len(), SEND_FLAGS) }))
}

/// Send pieces as one, without copying them together.
pub fn send_vector(socket: &Fd, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: all-zero bytes are a valid msghdr.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = pieces.as_ptr().cast_mut().cast();
    message.msg_iovlen = pieces.len() as _; // its type differs
    // SAFETY: an IoSlice is an iovec, as its documentation promises; sendmsg writes to none.
    retry(|| count(unsafe { libc::sendmsg(socket.raw(), &message, SEND_FLAGS) }))
}

/// Send a part of a file; 0 where the file ends before `offset`.
pub fn send_file(socket: &Fd, file: &Fd, offset: u64, size: usize) -> io::Result<usize> {
    platform::send_file(socket.raw(), file.raw(), offset, size)
}

/// Close for writing; the client reads the end.
pub fn shutdown_write(socket: &Fd) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    check(unsafe { libc::shutdown(socket.raw(), libc::SHUT_WR) }).map(drop)
}

/// Have the closing of a socket be a reset, which no client takes for a proper end.
pub fn reset_on_close(socket: &Fd) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let size = mem::size_of_val(&linger) as libc::socklen_t;
    let pointer = (&raw const linger).cast();
    // A socket that is gone already refuses it, and needs it no more.
    // SAFETY: pointer and size are those of `linger`.
    unsafe {
        libc::setsockopt(
            socket.raw(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            pointer,
            size,
        )
    };
}

/// Have the kernel take up to `bytes` that are not on their way to the client yet.
///
/// A socket has this from its listener at first: see `penstock.listeners`.
pub fn hold_ahead(socket: &Fd, bytes: u64) {
    platform::hold_ahead(
        socket.raw(),
        libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX),
    );
}

/// Reset a connection under the thread that uses it: its next call on the socket fails.
///
/// The descriptor stays taken: closed, its number could become another connection's, and the thread
/// would write to that.
pub fn cut_off(socket: &Fd) {
    reset_on_close(socket);
    if !platform::disconnect(socket.raw()) {
        // A unix socket, above all, which knows no reset.
        // SAFETY: no pointer is passed.
        unsafe { libc::shutdown(socket.raw(), libc::SHUT_RDWR) };
    }
}

/// A process, as far as `close_all_in_child` tells a forked child from its parent.
#[derive(Clone, Copy)]
pub struct Process(u32);

impl Process {
    pub fn current() -> Self {
        Process(GENERATION.load(Ordering::Relaxed))
    }

    /// Whether this process is it.
    pub fn is_current(self) -> bool {
        self.0 == GENERATION.load(Ordering::Relaxed)
    }
}

/// Bytes that wait in the send buffer or on the wire; 0 where that is unknown.
pub fn unacknowledged(socket: &Fd) -> u64 {
    let bytes = platform::unacknowledged(socket.raw()).unwrap_or(0);
    u64::try_from(bytes).unwrap_or(0)
}

/// Bytes that a socket holds and that were not received; 0 where that is unknown.
pub fn arrived(socket: &Fd) -> u64 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int.
    let asked = check(unsafe { libc::ioctl(socket.raw(), libc::FIONREAD, &mut bytes) });
    asked.map_or(0, |_| u64::try_from(bytes).unwrap_or(0))
}

/// What `wait_until` waits for.
#[derive(Clone, Copy)]
pub enum Readiness {
    Input,
    Room,
    /// Nothing but an error or a hang-up, which are always told.
    Trouble,
}

/// Wait on one socket for up to so long; return whether it is ready (or in an error).
pub fn wait_until(socket: &Fd, what: Readiness, timeout: Nanos) -> io::Result<bool> {
    let events = match what {
        Readiness::Input => libc::POLLIN,
        Readiness::Room => libc::POLLOUT,
        Readiness::Trouble => 0,
    };
    let mut entry = libc::pollfd {
        fd: socket.raw(),
        events,
        revents: 0,
    };
    let milliseconds = timeout.div_ceil(MILLISECOND).min(i32::MAX as u64) as libc::c_int;
    // SAFETY: `entry` is one pollfd.
    match check(unsafe { libc::poll(&mut entry, 1, milliseconds) }) {
        Ok(ready) => Ok(ready > 0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
    }
}

// -- files ----------------------------------------------------------------------------------

/// Duplicate a descriptor for ourselves.
pub fn duplicate(number: RawFd) -> io::Result<Fd> {
    // SAFETY: no pointer is passed.
    check(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) }).map(Fd::new)
}

/// Make a file that has no name, or loses it at once: whatever happens, none stays behind.
pub fn temporary_file(directory: &Path) -> io::Result<Fd> {
    let c_path = |bytes: &[u8]| CString::new(bytes).map_err(|_| io::ErrorKind::InvalidInput);
    if let Some(opened) = platform::open_unnamed(&c_path(directory.as_os_str().as_bytes())?) {
        return opened.map(Fd::new);
    }
    let template = directory.join("penstock-XXXXXX");
    let path = c_path(template.as_os_str().as_bytes())?.into_raw();
    // SAFETY: mkostemp writes the name over the template's last six bytes, in place.
    let number = unsafe { libc::mkostemp(path, libc::O_CLOEXEC) };
    let error = io::Error::last_os_error();
    // SAFETY: the pointer is from into_raw, and its C string has the same length as then.
    let path = unsafe { CString::from_raw(path) };
    if number < 0 {
        return Err(error);
    }
    // SAFETY: `path` is a C string.
    unsafe { libc::unlink(path.as_ptr()) };
    Ok(Fd::new(number))
}

/// Write all of it to a file.
pub fn write_all(file: &Fd, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        let pointer = data.as_ptr().cast();
        // SAFETY: pointer and length are those of `data`.
        let written = retry(|| count(unsafe { libc::write(file.raw(), pointer, data.len()) }))?;
        if written == 0 {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        data = data.get(written..).unwrap_or(&[]);
    }
    Ok(())
}

/// Write all of it to a place in a file.
pub fn write_all_at(file: &Fd, mut data: &[u8], mut offset: u64) -> io::Result<()> {
    while !data.is_empty() {
        let pointer = data.as_ptr().cast();
        let to = offset as libc::off_t;
        // SAFETY: pointer and length are those of `data`.
        let written =
            retry(|| count(unsafe { libc::pwrite(file.raw(), pointer, data.len(), to) }))?;
        if written == 0 {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        offset += written as u64;
        data = data.get(written..).unwrap_or(&[]);
    }
    Ok(())
}

/// Read from a place in a file; 0 where it ends before that.
pub fn read_at(number: RawFd, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let pointer = buffer.as_mut_ptr().cast();
    let from = offset as libc::off_t;
    // SAFETY: pointer and length are those of `buffer`.
    retry(|| count(unsafe { libc::pread(number, pointer, buffer.len(), from) }))
}

/// Go back to a file's start.
pub fn rewind(file: &Fd) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    match unsafe { libc::lseek(file.raw(), 0, libc::SEEK_SET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::{AsRawFd, IntoRawFd};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_tcp_connection_that_is_cut_off_is_reset_at_once_and_its_descriptor_stays_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut server = listener.accept().unwrap().0;
        server.write_all(b"some").unwrap();
        let socket = Fd::new(server.into_raw_fd());
        cut_off(&socket);
        // What was sent may be lost with the reset.
        let mut received = Vec::new();
        let error = client.read_to_end(&mut received).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let failures = [send(&socket, b"more"), send(&socket, b"more")];
        assert!(
            failures
                .iter()
                .all(|sent| is_disconnect(sent.as_ref().unwrap_err()))
        );
        assert_ne!(
            TcpListener::bind("127.0.0.1:0").unwrap().as_raw_fd(),
            socket.raw()
        );
    }

    #[test]
    fn a_unix_connection_that_is_cut_off_has_ended_for_both() {
        let (server, mut client) = UnixStream::pair().unwrap();
        let socket = Fd::new(server.into_raw_fd());
        cut_off(&socket);
        let mut received = Vec::new();
        assert_eq!(client.read_to_end(&mut received).unwrap(), 0);
        assert!(is_disconnect(&send(&socket, b"more").unwrap_err()));
    }
}
