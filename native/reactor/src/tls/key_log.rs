//! The secrets of each session, for a program that decrypts what was recorded (SSLKEYLOGFILE).

use crate::sync::lock;
use rustls::KeyLog;
use std::fmt::{self, Debug, Formatter, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Mutex;

/// A file to which lines are appended. It is for debugging: the thread that leads waits for it.
pub struct AppendingKeyLog(Mutex<File>);

impl AppendingKeyLog {
    pub fn open(path: &Path) -> io::Result<Self> {
        // With it each recorded session can be read: it is for the user of the server alone.
        let mut options = OpenOptions::new();
        let opened = options.append(true).create(true).mode(0o600).open(path);
        opened.map(|file| AppendingKeyLog(Mutex::new(file)))
    }
}

impl KeyLog for AppendingKeyLog {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = format!("{label} ");
        for byte in client_random {
            let _ = write!(line, "{byte:02x}");
        }
        line.push(' ');
        for byte in secret {
            let _ = write!(line, "{byte:02x}");
        }
        line.push('\n');
        // In one piece, since other workers append to the same file. A full disk is no reason to
        // refuse a client.
        let _ = lock(&self.0).write_all(line.as_bytes());
    }
}

impl Debug for AppendingKeyLog {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str("AppendingKeyLog")
    }
}
