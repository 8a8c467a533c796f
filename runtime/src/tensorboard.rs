//! Scalars for TensorBoard: an event file beside the log.
//!
//! The file is a row of records: length (u64), its checksum, the bytes, their checksum; checksums are CRC-32C, rotated and shifted so that one of data that
//! holds checksums is sound. The bytes are a message `Event` in protobuf's wire format, of which a handful of fields is needed:
//! `wall_time = 1`, `step = 2`, `file_version = 3`, `summary = 5` (`value = 1`: `tag = 1`, `simple_value = 2`), `session_log = 7` (`status = 1`).
//! A run that goes on opens another file in the same folder; its first event tells readers to forget what stands after the step that it goes on from.

use crate::error::{Result, RunError};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// An event file, open.
pub struct Events {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Events {
    /// A new file in `folder`, for what follows `step`.
    ///
    /// # Errors
    /// Not writable.
    pub fn create(folder: &Path, step: u64) -> Result<Events> {
        let seconds = now().as_secs();
        let mut events = None;
        for n in 0..1000 {
            let path = folder.join(format!("events.out.tfevents.{:010}.nnc.{n}", seconds));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    events = Some(Events { path, file: BufWriter::new(file) });
                    break;
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(RunError::file("write", &path, &e)),
            }
        }
        let mut events = events.ok_or_else(|| RunError::World(format!("{} is full of event files", folder.display())))?;
        events.event(0, &field(3, b"brain.Event:2"))?;
        if step > 0 {
            // SessionLog::START
            events.event(step + 1, &field(7, &[0x08, 1]))?;
        }
        events.flush()?;
        Ok(events)
    }

    /// A value at a step.
    ///
    /// # Errors
    /// Not writable.
    pub fn scalar(&mut self, step: u64, tag: &str, value: f64) -> Result<()> {
        let simple = [&[2 << 3 | 5][..], &(value as f32).to_le_bytes()].concat();
        self.event(step, &field(5, &field(1, &[field(1, tag.as_bytes()), simple].concat())))
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    /// Not writable.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(|e| RunError::file("write", &self.path, &e))
    }

    fn event(&mut self, step: u64, what: &[u8]) -> Result<()> {
        let mut event = [&[1 << 3 | 1][..], &now().as_secs_f64().to_le_bytes(), &[2 << 3]].concat();
        event.extend(varint(step));
        event.extend(what);
        let length = (event.len() as u64).to_le_bytes();
        let record = [&length[..], &masked(&length).to_le_bytes(), &event, &masked(&event).to_le_bytes()].concat();
        self.file.write_all(&record).map_err(|e| RunError::file("write", &self.path, &e))
    }
}

fn now() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A field of bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2], &varint(bytes.len() as u64)[..], bytes].concat()
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = vec![];
    while n >= 0x80 {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

/// The checksum as the format wants it.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Castagnoli's polynomial, reflected.
fn crc32c(bytes: &[u8]) -> u32 {
    let shift = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ byte as u32, shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of a file: step, tag and value, or the raw event where it is no scalar. Written against the format, not against the writer.
    fn read(bytes: &[u8]) -> Vec<(u64, String, f32)> {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let (mut at, mut found) = (0, vec![]);
        while at < bytes.len() {
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            let unmasked = |at: usize| word(at).wrapping_sub(0xa282ead8).rotate_left(15);
            assert_eq!(unmasked(at + 8), crc32c(&bytes[at..at + 8]));
            let event = &bytes[at + 12..at + 12 + length];
            assert_eq!(unmasked(at + 12 + length), crc32c(event));
            found.push(parse(event));
            at += 16 + length;
        }
        found
    }

    fn parse(event: &[u8]) -> (u64, String, f32) {
        let (mut step, mut tag, mut value) = (0, String::new(), f32::NAN);
        let mut rest = vec![(event, false)];
        while let Some((bytes, inner)) = rest.pop() {
            let mut at = 0;
            let number = |at: &mut usize| {
                let mut n = 0u64;
                for shift in (0..).step_by(7) {
                    n |= ((bytes[*at] & 0x7f) as u64) << shift;
                    *at += 1;
                    if bytes[*at - 1] < 0x80 {
                        break;
                    }
                }
                n
            };
            while at < bytes.len() {
                let key = number(&mut at);
                match (key >> 3, key & 7) {
                    (2, 0) => step = number(&mut at),
                    (_, 0) => _ = number(&mut at),
                    (_, 1) => at += 8,
                    (2, 5) => {
                        value = f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
                        at += 4;
                    }
                    (field, 2) => {
                        let length = number(&mut at) as usize;
                        let content = &bytes[at..at + length];
                        match (field, inner) {
                            (5, false) => rest.push((content, true)),
                            (1, true) if content.first() == Some(&0x0a) => rest.push((content, true)),
                            _ => tag = String::from_utf8_lossy(content).into_owned(),
                        }
                        at += length;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        (step, tag, value)
    }

    #[test]
    fn checksums_are_those_of_the_standard() {
        // RFC 3720, appendix B.4, and the check value of CRC-32C.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = Events::create(folder.path(), 0).unwrap();
        events.scalar(40, "train/loss", 0.25).unwrap();
        events.scalar(300, "valid/accuracy", f64::NAN).unwrap();
        events.flush().unwrap();
        let found = read(&std::fs::read(&events.path).unwrap());
        assert_eq!((found[0].0, found[0].1.as_str()), (0, "brain.Event:2"));
        assert_eq!(found[1], (40, "train/loss".into(), 0.25));
        assert_eq!((found[2].0, found[2].1.as_str(), found[2].2.is_nan()), (300, "valid/accuracy", true));
        // A run that goes on writes another file, which begins where it does.
        let again = Events::create(folder.path(), 40).unwrap();
        assert_ne!(again.path, events.path);
        assert_eq!(read(&std::fs::read(&again.path).unwrap())[1].0, 41);
    }
}
