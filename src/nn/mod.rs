//! Forward and backward of every unit, composed of device operations.
