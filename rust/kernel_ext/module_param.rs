// SPDX-License-Identifier: GPL-2.0

//! Module parameters that show up in sysfs, and the module's version.
//!
//! C header: [`include/linux/moduleparam.h`](srctree/include/linux/moduleparam.h)
//!
//! ```ignore
//! static DEBUG: Atomic<usize> = Atomic::new(0);
//! kernel_ext::param_ulong!(debug, DEBUG, 0o644, "what to log");
//! kernel_ext::module_version!();
//! ```

use crate::bindings;
use kernel::prelude::*;
use kernel::str::as_char_ptr_in_const_context;
use kernel::sync::atomic::Atomic;

/// The value of a module parameter.
///
/// # Safety
///
/// [`Self::OPS`] must read and write objects of this size, by plain loads and stores that do not
/// tear.
pub unsafe trait Value: Sized {
    /// What parses and shows it.
    const OPS: *const bindings::kernel_param_ops;
}

// SAFETY: `unsigned long` in C.
unsafe impl Value for Atomic<usize> {
    const OPS: *const bindings::kernel_param_ops = &raw const bindings::param_ops_ulong;
}

// SAFETY: `unsigned int` in C.
unsafe impl Value for Atomic<u32> {
    const OPS: *const bindings::kernel_param_ops = &raw const bindings::param_ops_uint;
}

// SAFETY: `bool` in C, of which `Atomic<bool>` is a transparent wrapper; only 0 and 1 are stored.
unsafe impl Value for Atomic<bool> {
    const OPS: *const bindings::kernel_param_ops = &raw const bindings::param_ops_bool;
}

/// An entry of the section `__param`; made by [`param_ulong!`](crate::param_ulong),
/// [`param_uint!`](crate::param_uint) and [`param_bool!`](crate::param_bool).
#[doc(hidden)]
#[repr(transparent)]
pub struct Entry(bindings::kernel_param);

// SAFETY: Never changed by Rust code; the C side has its own lock for parameters.
unsafe impl Sync for Entry {}

impl Entry {
    /// An entry for the module that this is compiled into.
    pub const fn new<V: Value>(name: &'static CStr, value: &'static V, mode: u16) -> Self {
        Self(bindings::kernel_param {
            name: as_char_ptr_in_const_context(name),
            mod_: (&raw const bindings::__this_module).cast_mut(),
            ops: V::OPS,
            perm: mode,
            level: -1,
            flags: 0,
            __bindgen_anon_1: bindings::kernel_param__bindgen_ty_1 {
                // `Value` allows writing through it.
                arg: core::ptr::from_ref(value).cast_mut().cast(),
            },
        })
    }
}

/// Whether a mode is one that sysfs and the module loader take for a parameter.
#[doc(hidden)]
pub const fn mode_is_valid(mode: u16) -> bool {
    mode & !0o644 == 0
}

/// The bytes of a string, for a static in `.modinfo`.
#[doc(hidden)]
pub const fn modinfo<const N: usize>(text: &str) -> [u8; N] {
    assert!(text.len() == N);
    let mut bytes = [0; N];
    let mut i = 0;
    while i < N {
        bytes[i] = text.as_bytes()[i];
        i += 1;
    }
    bytes
}

/// Puts `key=value` into the module's information, where the pieces are literals or `env!`.
#[macro_export]
macro_rules! modinfo {
    ($($piece:expr),+ $(,)?) => {
        const _: () = {
            const TEXT: &str = ::core::concat!($($piece),+, "\0");
            #[link_section = ".modinfo"]
            #[used(compiler)]
            static INFO: [u8; TEXT.len()] = $crate::module_param::modinfo(TEXT);
        };
    };
}

/// Gives the module the version that the build passes as `MODULE_VERSION` (C: `MODULE_VERSION()`,
/// without the sysfs file).
#[macro_export]
macro_rules! module_version {
    () => {
        $crate::modinfo!("version=", ::core::env!("MODULE_VERSION"));
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! param {
    ($name:ident, $value:expr, $type:ty, $c_type:literal, $mode:literal, $description:literal) => {
        const _: () = {
            const NAME: &::kernel::str::CStr = match ::kernel::str::CStr::from_bytes_with_nul(
                ::core::concat!(::core::stringify!($name), "\0").as_bytes(),
            ) {
                Ok(name) => name,
                Err(_) => ::core::panic!(),
            };
            const _: () = assert!($crate::module_param::mode_is_valid($mode));
            #[link_section = "__param"]
            #[used(compiler)]
            static ENTRY: $crate::module_param::Entry =
                $crate::module_param::Entry::new::<$type>(NAME, &$value, $mode);
        };
        $crate::modinfo!("parmtype=", ::core::stringify!($name), ":", $c_type);
        $crate::modinfo!("parm=", ::core::stringify!($name), ":", $description);
    };
}

/// Makes a module parameter of a static [`Atomic<usize>`](Atomic): a number in decimal, or with
/// `0x` or `0` in front in hexadecimal or octal. The mode is that of its file in sysfs, 0 for none;
/// a new value may appear in the static at any time. C: `module_param(…, ulong, …)`.
#[macro_export]
macro_rules! param_ulong {
    ($name:ident, $value:expr, $mode:literal, $description:literal $(,)?) => {
        $crate::param!(
            $name,
            $value,
            ::kernel::sync::atomic::Atomic<usize>,
            "ulong",
            $mode,
            $description
        );
    };
}

/// As [`param_ulong!`](crate::param_ulong) of a static [`Atomic<u32>`](Atomic). C:
/// `module_param(…, uint, …)`.
#[macro_export]
macro_rules! param_uint {
    ($name:ident, $value:expr, $mode:literal, $description:literal $(,)?) => {
        $crate::param!(
            $name,
            $value,
            ::kernel::sync::atomic::Atomic<u32>,
            "uint",
            $mode,
            $description
        );
    };
}

/// As [`param_ulong!`](crate::param_ulong) of a static [`Atomic<bool>`](Atomic), which is `Y` or `N`
/// in sysfs. C: `module_param(…, bool, …)`.
#[macro_export]
macro_rules! param_bool {
    ($name:ident, $value:expr, $mode:literal, $description:literal $(,)?) => {
        $crate::param!(
            $name,
            $value,
            ::kernel::sync::atomic::Atomic<bool>,
            "bool",
            $mode,
            $description
        );
    };
}
