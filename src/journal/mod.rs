//! The write-ahead journal: responses are durable here before anything else happens to them.
//!
//! # Invariants
//! 1. A record is acknowledged only after it and everything before it is on stable storage.
//! 2. A segment is one file and becomes one part of each table, once every task in it is settled: what
//!    is wanted of its assets is there, or known unavailable. It is removed only after its parts are in
//!    place; publishing it twice yields the same files.
//! 3. A record that was acknowledged is never dropped silently: what cannot be read is counted, and the
//!    segment is quarantined.
//!
//! # Layout
//! `<run_id>-<part>.journal`: a line a record, `<CRC-32 of the JSON in 8 hex digits> <JSON>\n`. The
//! first record names the format's version, the run and the part. JSON holds no raw line feed, so a
//! reader finds the next record after a damaged one.
//!
//! # What survives what
//! A killed process: everything written. A power loss: everything acknowledged. A line without its line
//! feed at the end is a write cut short, which it was never acknowledged of; any other line that does not match
//! its checksum is damage.
//!
//! This module knows files and records; what is done with a closed segment is the export's business.

#![expect(clippy::disallowed_methods, reason = "the journal is always local")]

mod leftover;
mod reader;
mod record;
mod segment;
mod split;
mod writer;

pub(crate) use leftover::{Leftover, leftovers};
pub(crate) use reader::{Segment, is_segment, segments};
pub(crate) use record::Record;
pub(crate) use segment::ClosedSegment;
pub(crate) use writer::{JournalWriter, SegmentLimits};
