//! The operator end (next).
