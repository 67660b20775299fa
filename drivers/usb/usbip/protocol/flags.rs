// SPDX-License-Identifier: GPL-2.0

//! `transfer_flags`: what travels, and what each end makes of it.
//!
//! The bits are fixed ABI (`include/uapi/linux/usbip.h`, `USBIP_URB_*`). They happen to equal the
//! `URB_*` bits of today's kernel, which are not ABI; so the two are mapped bit by bit
//! ([`TransferFlags::from_local`], [`TransferFlags::to_local`]), as `urb_to_usbip` and
//! `usbip_to_urb` of `usbip_common.c` do.

/// One flag that means something to the other end.
///
/// The remaining `USBIP_URB_*` bits tell how a buffer is mapped or freed on the machine that set
/// them. They have no name here, so that none of them can reach a URB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Flag {
    /// A short read is an error. `URB_SHORT_NOT_OK`.
    ShortNotOk = 0x0001,
    /// Schedule as soon as possible. `URB_ISO_ASAP`.
    IsoAsap = 0x0002,
    /// Terminate an OUT transfer with a zero-length packet if need be. `URB_ZERO_PACKET`.
    ZeroPacket = 0x0040,
    /// Completion need not raise an interrupt. `URB_NO_INTERRUPT`.
    NoInterrupt = 0x0080,
    /// Data moves towards the host. `URB_DIR_IN`.
    DirIn = 0x0200,
}

impl Flag {
    /// Every flag.
    pub const ALL: [Self; 5] = [
        Self::ShortNotOk,
        Self::IsoAsap,
        Self::ZeroPacket,
        Self::NoInterrupt,
        Self::DirIn,
    ];
}

/// `USBIP_URB_DMA_MAP_SG`: the client's buffer was a scatter list, so the server had better use
/// one too. Never handed to a URB.
const DMA_MAP_SG: u32 = 0x0004_0000;

/// Type of a transfer, as the flags distinguish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferType {
    /// Control.
    Control,
    /// Isochronous.
    Isochronous,
    /// Bulk.
    Bulk,
    /// Interrupt.
    Interrupt,
}

/// A set of transfer flags in the encoding of the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TransferFlags(u32);

impl TransferFlags {
    /// No flag.
    pub const NONE: Self = Self(0);

    /// What a peer sent, unknown bits and all.
    pub const fn from_wire(bits: u32) -> Self {
        Self(bits)
    }

    /// The word to send.
    pub const fn wire(self) -> u32 {
        self.0
    }

    /// Whether `flag` is set.
    pub const fn has(self, flag: Flag) -> bool {
        self.0 & flag as u32 != 0
    }

    /// This set and `flag`.
    #[must_use]
    pub const fn with(self, flag: Flag) -> Self {
        Self(self.0 | flag as u32)
    }

    /// This set without `flag`.
    #[must_use]
    pub const fn without(self, flag: Flag) -> Self {
        Self(self.0 & !(flag as u32))
    }

    /// Whether the client's buffer is a scatter list. Meaningful for bulk only.
    pub const fn wants_scatter_list(self) -> bool {
        self.0 & DMA_MAP_SG != 0
    }

    /// What a client sends for a URB with the flags `local`, where `bit` gives the `URB_*` bit of
    /// each flag and `scatter_list` says whether its buffer is one.
    ///
    /// How the buffer is mapped or freed here (`URB_NO_TRANSFER_DMA_MAP`, `URB_FREE_BUFFER`, the
    /// internal DMA state) is none of the server's business, and C servers act on some of it; it
    /// never leaves.
    pub fn from_local(local: u32, scatter_list: bool, bit: impl Fn(Flag) -> u32) -> Self {
        let flags = Flag::ALL
            .into_iter()
            .filter(|&flag| local & bit(flag) != 0)
            .fold(Self::NONE, Self::with);
        if scatter_list {
            Self(flags.0 | DMA_MAP_SG)
        } else {
            flags
        }
    }

    /// The `URB_*` bits of these flags, where `bit` gives the bit of each. Everything else
    /// vanishes.
    pub fn to_local(self, bit: impl Fn(Flag) -> u32) -> u32 {
        Flag::ALL
            .into_iter()
            .filter(|&flag| self.has(flag))
            .fold(0, |bits, flag| bits | bit(flag))
    }

    /// What a server keeps of a client's flags: only what usbcore accepts for the endpoint.
    ///
    /// `is_out` is the direction usbcore will compute: for control transfers, OUT if bmRequestType
    /// says so *or* wLength is zero. C counterpart: `masking_bogus_flags` of `stub_rx.c` after the
    /// checks of `usb_submit_urb`; unlike there, ZERO_PACKET survives on interrupt OUT, which
    /// usbcore allows, and the client's buffer flags never do.
    #[must_use]
    pub fn for_endpoint(self, kind: TransferType, is_out: bool) -> Self {
        let iso = kind == TransferType::Isochronous;
        let allowed = |flag| match flag {
            Flag::ShortNotOk => !iso && !is_out,
            Flag::IsoAsap => iso,
            Flag::ZeroPacket => {
                is_out && matches!(kind, TransferType::Bulk | TransferType::Interrupt)
            }
            Flag::NoInterrupt => true,
            Flag::DirIn => false,
        };
        let kept = Flag::ALL
            .into_iter()
            .filter(|&flag| self.has(flag) && allowed(flag))
            .fold(Self::NONE, Self::with);
        // The direction is a fact of the request, not something to be told.
        if is_out {
            kept
        } else {
            kept.with(Flag::DirIn)
        }
    }
}
