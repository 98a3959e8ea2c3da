//! The write-ahead journal. A response is written durably to the journal before it is processed.
//!
//! # Invariants
//! 1. A record is acknowledged only after it and all preceding records are on stable storage.
//! 2. A segment is a single file and is published as one part per table. A segment is published once every requested
//!    asset of its tasks has been downloaded, has failed or has been skipped. Before that, the asset is pending and its
//!    task is unsettled. A segment is removed only after its parts have been published. Publishing a segment twice
//!    produces the same files.
//! 3. An acknowledged record is never dropped silently. Damaged records are counted, and a segment with damaged records
//!    is quarantined.
//!
//! # Layout
//! A segment is a file with the name `<run_id>-<part>.journal`. Each line is one record in the format
//! `<CRC-32 of the JSON in 8 hex digits> <JSON>\n`. The first record contains the format version, the run ID and the
//! part number of the segment. The JSON contains no raw line feeds, so a reader can find the next record after a
//! damaged record.
//!
//! # Durability
//! If the process is killed, all written records survive. After a power failure, all acknowledged records survive. A
//! final line without a line feed is an incomplete write that was never acknowledged. Any other line that does not
//! match its checksum is damaged.
//!
//! This module handles segment files and records. The `export` module publishes closed segments.

#![expect(clippy::disallowed_methods, reason = "the journal is always local")]

mod leftover;
mod reader;
mod record;
mod segment;
mod split;
mod writer;

pub(crate) use leftover::{Leftover, leftovers};
pub(crate) use reader::{SegmentReader, is_segment, segments};
pub(crate) use record::Record;
pub(crate) use segment::ClosedSegment;
pub(crate) use writer::{JournalWriter, SegmentLimits};
