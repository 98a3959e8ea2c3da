//! The format of an archive's tables.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The format of all tables in an archive, fixed when the archive is created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableFormat {
    /// Typed and compressed; readable by DuckDB, pyarrow, Polars and Spark.
    #[default]
    Parquet,
    /// Plain text (RFC 4180); readable by almost any tool.
    Csv,
}

impl TableFormat {
    /// Returns the file extension for this format.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
        }
    }

    /// Returns CSV for Parquet, and Parquet for CSV.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Parquet => Self::Csv,
            Self::Csv => Self::Parquet,
        }
    }
}

impl fmt::Display for TableFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.extension())
    }
}
