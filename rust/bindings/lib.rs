// SPDX-License-Identifier: GPL-2.0

//! Bindings of what `kernel::bindings` lacks: `linux/usb/hcd.h`, `linux/usb/gadget.h` and the C
//! helpers of `rust/helpers/`, merged with `kernel::bindings`.
//!
//! There is one set of types: what the kernel's own bindings have is re-exported and used by what
//! is generated here. Only for the abstractions in `kernel_ext`; drivers must not use this crate.

#![allow(
    clippy::all,
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    non_snake_case,
    improper_ctypes,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]

#[allow(dead_code)]
#[allow(clippy::as_underscore)]
#[allow(clippy::cast_lossless)]
#[allow(clippy::ptr_as_ptr)]
#[allow(clippy::ref_as_ptr)]
#[allow(clippy::undocumented_unsafe_blocks)]
#[cfg_attr(not(CONFIG_RUSTC_HAS_UNNECESSARY_TRANSMUTES), allow(unknown_lints))]
#[allow(unnecessary_transmutes)]
mod bindings_raw {
    use kernel::{bindings::*, ffi};
    use pin_init::{MaybeZeroable, Zeroable};

    // bindgen does not do this itself, see the kernel's rust/bindings/lib.rs.
    //
    // SAFETY: `__BindgenBitfieldUnit<Storage>` is a newtype around `Storage`.
    unsafe impl<Storage> Zeroable for __BindgenBitfieldUnit<Storage> where Storage: Zeroable {}

    include!(concat!(
        env!("RUST_EXT_OBJ"),
        "/bindings/bindings_generated.rs"
    ));
}

#[allow(dead_code)]
#[allow(clippy::undocumented_unsafe_blocks)]
mod bindings_helper {
    use super::bindings_raw::*;
    use kernel::{bindings::*, ffi};
    include!(concat!(
        env!("RUST_EXT_OBJ"),
        "/bindings/bindings_helpers_generated.rs"
    ));
}

/// What gcc says about the layout of the C types in use, as assertions; see `layout.c`.
mod layout {
    use super::bindings_raw::*;
    use core::mem::{offset_of, size_of};
    use kernel::bindings::*;
    include!(concat!(
        env!("RUST_EXT_OBJ"),
        "/bindings/layout_generated.rs"
    ));
}

#[allow(ambiguous_glob_reexports, hidden_glob_reexports)]
mod merged {
    pub use super::bindings_helper::*;
    pub use super::bindings_raw::*;
    pub use kernel::bindings::*;
}

pub use merged::*;
