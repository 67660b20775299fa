// SPDX-License-Identifier: GPL-2.0

//! Locks and waiting.

pub mod irqsave;
pub mod turn;
pub mod wait;
