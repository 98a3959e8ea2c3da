//! One file a verb. Each takes what it needs as values and gives an outcome, so that a program that
//! links the library calls exactly what the command line calls.

pub mod dry_run;
pub mod export;
pub mod simulate;
pub mod summary;
pub mod verify;
