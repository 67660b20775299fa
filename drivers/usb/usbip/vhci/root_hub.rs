// SPDX-License-Identifier: GPL-2.0

//! The root hubs: what their descriptors say and how a port answers class requests.
//!
//! Pure code: a port is a value, time is an argument. C counterpart: `vhci_hub_control()`,
//! `rh_port_connect()` and `rh_port_disconnect()` of `vhci_hcd.c`. Values are from USB 2.0, chapter
//! 11, and USB 3.2, chapter 10, whose numbers usbcore has in `include/uapi/linux/usb/ch11.h`.

use usbip_protocol::speed::Speed;

/// How long a port takes to reset, in ms. usbcore looks after 60 ms at the earliest
/// (`HUB_ROOT_RESET_TIME`), so a shorter time would gain nothing.
const RESET_MS: u64 = 50;

/// How long a port drives resume, in ms (USB 2.0, 7.1.7.7: `TDRSMDN`).
const RESUME_MS: u64 = 20;

/// The most ports a hub can have here: what `USBIP_VHCI_HC_PORTS` allows.
pub(crate) const MAX_PORTS: u8 = 15;

/// Which of the two root hubs of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HubKind {
    /// USB 2: low, full and high speed.
    Usb2,
    /// USB 3: SuperSpeed and SuperSpeedPlus.
    Usb3,
}

/// A request that the hub does not know or cannot do now: the caller stalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stall;

/// Class requests, `bmRequestType << 8 | bRequest`.
mod request {
    pub(super) const CLEAR_HUB_FEATURE: u16 = 0x2001;
    pub(super) const SET_HUB_FEATURE: u16 = 0x2003;
    pub(super) const SET_HUB_DEPTH: u16 = 0x200c;
    pub(super) const GET_HUB_STATUS: u16 = 0xa000;
    pub(super) const GET_HUB_DESCRIPTOR: u16 = 0xa006;
    pub(super) const CLEAR_PORT_FEATURE: u16 = 0x2301;
    pub(super) const SET_PORT_FEATURE: u16 = 0x2303;
    pub(super) const GET_PORT_STATUS: u16 = 0xa300;
    pub(super) const GET_PORT_ERROR_COUNT: u16 = 0xa30d;
    pub(super) const GET_DEVICE_DESCRIPTOR: u16 = 0x8006;
}

/// Port features, `USB_PORT_FEAT_*`.
mod feature {
    pub(super) const SUSPEND: u16 = 2;
    pub(super) const RESET: u16 = 4;
    pub(super) const LINK_STATE: u16 = 5;
    pub(super) const POWER: u16 = 8;
    pub(super) const U1_TIMEOUT: u16 = 23;
    pub(super) const U2_TIMEOUT: u16 = 24;
    pub(super) const C_PORT_LINK_STATE: u16 = 25;
    pub(super) const C_PORT_CONFIG_ERROR: u16 = 26;
    pub(super) const BH_PORT_RESET: u16 = 28;
    pub(super) const C_BH_PORT_RESET: u16 = 29;
    /// From here on there is none.
    pub(super) const END: u16 = 32;
}

/// Bits of the port word: `wPortStatus` in the low half, `wPortChange` in the high half.
mod bit {
    pub(super) const CONNECTION: u32 = 1 << 0;
    pub(super) const ENABLE: u32 = 1 << 1;
    pub(super) const SUSPEND: u32 = 1 << 2;
    pub(super) const RESET: u32 = 1 << 4;
    pub(super) const POWER_USB2: u32 = 1 << 8;
    pub(super) const POWER_USB3: u32 = 1 << 9;
    pub(super) const LOW_SPEED: u32 = 1 << 9;
    pub(super) const HIGH_SPEED: u32 = 1 << 10;
    pub(super) const C_CONNECTION: u32 = 1 << 16;
    pub(super) const C_SUSPEND: u32 = 1 << 18;
    pub(super) const C_RESET: u32 = 1 << 20;
    pub(super) const C_BH_RESET: u32 = 1 << 21;
    /// Connection, enable, suspend, over-current, reset and warm reset.
    pub(super) const CHANGES: u32 = 0x3f << 16;
}

/// The speed IDs that the BOS descriptor of the USB 3 hub defines.
mod speed_id {
    /// 5 Gb/s, SuperSpeed. (As xHCI's default for that speed.)
    pub(super) const GEN1: u8 = 4;
    /// 10 Gb/s a lane, SuperSpeedPlus. (As xHCI's default for that speed.)
    pub(super) const GEN2: u8 = 5;
}

/// How a SuperSpeedPlus device is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lanes {
    /// Gen 2x1: 10 Gb/s.
    One,
    /// Gen 2x2: 20 Gb/s.
    Two,
}

/// A port of a root hub.
#[derive(Clone, Debug)]
pub(crate) struct RootPort {
    kind: HubKind,
    lanes: Lanes,
    word: u32,
    /// The speed of what is plugged in.
    device: Option<Speed>,
    /// When a reset ends, and whether it is a warm one.
    reset: Option<(u64, bool)>,
    /// When a resume ends.
    resume: Option<u64>,
}

impl RootPort {
    /// An empty port without power, as after the hub was plugged in.
    pub(crate) const fn new(kind: HubKind, lanes: Lanes) -> Self {
        Self {
            kind,
            lanes,
            word: 0,
            device: None,
            reset: None,
            resume: None,
        }
    }

    /// Plugs a device in.
    pub(crate) fn connect(&mut self, speed: Speed) {
        self.unplug();
        self.device = Some(speed);
        self.word |= bit::CONNECTION | bit::C_CONNECTION | self.speed_bits();
    }

    /// Unplugs the device. Nothing of it stays behind for the next one.
    pub(crate) fn disconnect(&mut self) {
        self.unplug();
        self.word |= bit::C_CONNECTION;
    }

    fn unplug(&mut self) {
        self.device = None;
        self.reset = None;
        self.resume = None;
        // Power and unacknowledged changes are all that lasts.
        self.word &= self.power_bit() | !0xffff;
    }

    /// Whether something is plugged in.
    pub(crate) fn is_connected(&self) -> bool {
        self.word & bit::CONNECTION != 0
    }

    /// Whether the hub driver has to look at this port.
    pub(crate) fn has_changed(&self) -> bool {
        self.word & bit::CHANGES != 0
    }

    fn power_bit(&self) -> u32 {
        match self.kind {
            HubKind::Usb2 => bit::POWER_USB2,
            HubKind::Usb3 => bit::POWER_USB3,
        }
    }

    fn is_powered(&self) -> bool {
        self.word & self.power_bit() != 0
    }

    fn speed_bits(&self) -> u32 {
        match (self.kind, self.device) {
            (HubKind::Usb2, Some(Speed::High)) => bit::HIGH_SPEED,
            (HubKind::Usb2, Some(Speed::Low)) => bit::LOW_SPEED,
            _ => 0,
        }
    }

    /// Ends what takes time and is over at `now`, in ms.
    fn catch_up(&mut self, now: u64) {
        if let Some((_, warm)) = self.reset.take_if(|(end, _)| *end <= now) {
            self.word &= !bit::RESET;
            self.word |= bit::C_RESET;
            if warm {
                self.word |= bit::C_BH_RESET;
            }
            if self.device.is_some() {
                self.word |= bit::ENABLE | self.speed_bits();
            }
        }
        if self.resume.take_if(|end| *end <= now).is_some() {
            self.word &= !bit::SUSPEND;
            self.word |= bit::C_SUSPEND;
        }
    }

    fn start_reset(&mut self, now: u64, warm: bool) {
        self.word &= !(bit::ENABLE | bit::SUSPEND | self.speed_bits());
        self.resume = None;
        if self.is_powered() {
            self.word |= bit::RESET;
            self.reset = Some((now.saturating_add(RESET_MS), warm));
        }
    }

    /// `wPortStatus` and `wPortChange`, and the extended status that USB 3.1 has behind them.
    fn status(&mut self, now: u64) -> [u8; 8] {
        self.catch_up(now);
        let (id, lanes) = match (self.device, self.lanes) {
            (Some(Speed::SuperPlus), Lanes::Two) => (speed_id::GEN2, 1),
            (Some(Speed::SuperPlus), Lanes::One) => (speed_id::GEN2, 0),
            _ => (speed_id::GEN1, 0),
        };
        let extended = if self.kind == HubKind::Usb3 {
            // Receiving and sending alike; lanes are counted from 0.
            u32::from(id) | u32::from(id) << 4 | lanes << 8 | lanes << 12
        } else {
            0
        };
        let [a, b, c, d] = self.word.to_le_bytes();
        let [e, f, g, h] = extended.to_le_bytes();
        [a, b, c, d, e, f, g, h]
    }

    fn set_feature(&mut self, feature: u16, now: u64) -> Result<(), Stall> {
        match (feature, self.kind) {
            (feature::END.., _) => return Err(Stall),
            (feature::SUSPEND, HubKind::Usb2) => self.word |= bit::SUSPEND,
            (feature::SUSPEND, HubKind::Usb3) => return Err(Stall),
            (feature::LINK_STATE | feature::U1_TIMEOUT | feature::U2_TIMEOUT, HubKind::Usb2) => {
                return Err(Stall)
            }
            (feature::POWER, _) => self.word |= self.power_bit(),
            (feature::RESET, _) => self.start_reset(now, false),
            (feature::BH_PORT_RESET, HubKind::Usb3) => self.start_reset(now, true),
            (feature::BH_PORT_RESET, HubKind::Usb2) => return Err(Stall),
            // Test modes, indicators, wake masks: accepted, and without effect on a port that
            // has no hardware.
            _ => {}
        }
        Ok(())
    }

    fn clear_feature(&mut self, feature: u16, now: u64) -> Result<(), Stall> {
        match (feature, self.kind) {
            (feature::END.., _) => return Err(Stall),
            (feature::SUSPEND, HubKind::Usb2) => {
                if self.word & bit::SUSPEND != 0 {
                    self.resume = Some(now.saturating_add(RESUME_MS));
                }
            }
            (feature::SUSPEND, HubKind::Usb3) => return Err(Stall),
            (feature::POWER, _) => self.word &= !self.power_bit(),
            // These changes have other numbers as features than as bits.
            (
                feature::C_PORT_LINK_STATE
                | feature::C_PORT_CONFIG_ERROR
                | feature::C_BH_PORT_RESET,
                HubKind::Usb3,
            ) => {
                let bit = match feature {
                    feature::C_BH_PORT_RESET => bit::C_BH_RESET,
                    feature::C_PORT_LINK_STATE => 1 << 22,
                    _ => 1 << 23,
                };
                self.word &= !bit;
            }
            _ => {
                if let Some(bit) = 1u32.checked_shl(feature.into()) {
                    self.word &= !bit;
                }
            }
        }
        Ok(())
    }
}

/// Answers a class request to a hub whose port `wIndex` names, if any, is `port`.
///
/// `now` is in ms. Returns the number of bytes written to `data`, which has the length that was
/// asked for.
///
/// # Errors
///
/// [`Stall`].
pub(crate) fn hub_control(
    kind: HubKind,
    ports: u8,
    port: Option<&mut RootPort>,
    type_req: u16,
    value: u16,
    now: u64,
    data: &mut [u8],
) -> Result<usize, Stall> {
    match (type_req, kind) {
        (request::CLEAR_HUB_FEATURE, _) => Ok(0),
        (request::SET_HUB_FEATURE, _) => Err(Stall),
        (request::SET_HUB_DEPTH, HubKind::Usb3) => Ok(0),
        (request::GET_HUB_STATUS, _) => Ok(put(data, &[0; 4])),
        (request::GET_HUB_DESCRIPTOR, HubKind::Usb2) => Ok(usb2_hub_descriptor(ports, data)),
        (request::GET_HUB_DESCRIPTOR, HubKind::Usb3) => {
            if value != 0x2a00 || data.len() < 12 {
                return Err(Stall);
            }
            // Length, type, ports, individual power switching and global over-current, power on to
            // power good, current, header decode latency 0.4 µs, delay, removable.
            let descriptor = [12, 0x2a, ports, 0x01, 0, 0, 0, 4, 0, 0, 0xff, 0xff];
            Ok(put(data, &descriptor))
        }
        (request::GET_DEVICE_DESCRIPTOR, HubKind::Usb3) if value >> 8 == 0x0f => {
            Ok(put(data, &BOS))
        }
        // Accepted even without a port: they change nothing.
        (request::SET_PORT_FEATURE, HubKind::Usb3)
            if matches!(
                value,
                feature::LINK_STATE | feature::U1_TIMEOUT | feature::U2_TIMEOUT
            ) =>
        {
            Ok(0)
        }
        (request::SET_PORT_FEATURE, _) => {
            port.ok_or(Stall)?.set_feature(value, now)?;
            Ok(0)
        }
        (request::CLEAR_PORT_FEATURE, _) => {
            port.ok_or(Stall)?.clear_feature(value, now)?;
            Ok(0)
        }
        (request::GET_PORT_STATUS, _) => {
            let status = port.ok_or(Stall)?.status(now);
            // The extended status comes for `wValue` 2 only.
            let len = if value == 2 { 8 } else { 4 };
            Ok(put(data, status.get(..len).unwrap_or(&status)))
        }
        (request::GET_PORT_ERROR_COUNT, HubKind::Usb3) => Ok(0),
        _ => Err(Stall),
    }
}

/// Writes as much of `bytes` as was asked for.
fn put(data: &mut [u8], bytes: &[u8]) -> usize {
    let len = bytes.len().min(data.len());
    if let (Some(to), Some(from)) = (data.get_mut(..len), bytes.get(..len)) {
        to.copy_from_slice(from);
    }
    len
}

/// USB 2.0, 11.23.2.1. The two bitmaps at the end have a bit for each port and one for the hub.
fn usb2_hub_descriptor(ports: u8, data: &mut [u8]) -> usize {
    let bitmap = usize::from(ports) / 8 + 1;
    let len = 7 + 2 * bitmap;
    let mut descriptor = [0; 7 + 2 * (MAX_PORTS as usize / 8 + 1)];
    // Individual power switching, global over-current.
    let head = [len as u8, 0x29, ports, 0x01];
    for (to, from) in descriptor.iter_mut().zip(head) {
        *to = from;
    }
    // All ports removable; the power mask is all ones.
    for byte in descriptor.iter_mut().skip(7 + bitmap).take(bitmap) {
        *byte = 0xff;
    }
    put(data, descriptor.get(..len).unwrap_or(&descriptor))
}

/// The BOS descriptor of the USB 3 hub (USB 3.2, 9.6.2).
///
/// The SuperSpeed capability says 5 Gb/s and no U1 or U2 latency. The SuperSpeedPlus capability,
/// which the C driver lacks, makes usbcore ask for the extended port status and thus see
/// SuperSpeedPlus devices as such: 5 and 10 Gb/s a lane, receiving and sending; two lanes are
/// 20 Gb/s.
pub(crate) const BOS: [u8; 43] = {
    const fn lane(id: u8, sending: bool, plus: bool, gbps: u8) -> [u8; 4] {
        // Speed ID, exponent 3 (Gb/s), symmetric; protocol; mantissa.
        let direction = if sending { 2 << 6 } else { 0 };
        [id | 3 << 4 | direction, (plus as u8) << 6, gbps, 0]
    }
    let a = lane(speed_id::GEN1, false, false, 5);
    let b = lane(speed_id::GEN1, true, false, 5);
    let c = lane(speed_id::GEN2, false, true, 10);
    let d = lane(speed_id::GEN2, true, true, 10);
    [
        // BOS header: total length, two capabilities.
        5,
        0x0f,
        43,
        0,
        2, //
        // SuperSpeed: supports 5 Gb/s, which is also the lowest speed with full function.
        10,
        0x10,
        0x03,
        0,
        0x08,
        0,
        3,
        0,
        0,
        0, //
        // SuperSpeedPlus: four attributes (counted from 0), two speed IDs (likewise); the lowest
        // speed with full function, one lane each way.
        28,
        0x10,
        0x0a,
        0,
        3 | 1 << 5,
        0,
        0,
        0,
        speed_id::GEN1,
        0x11,
        0,
        0, //
        a[0],
        a[1],
        a[2],
        a[3],
        b[0],
        b[1],
        b[2],
        b[3], //
        c[0],
        c[1],
        c[2],
        c[3],
        d[0],
        d[1],
        d[2],
        d[3],
    ]
};
