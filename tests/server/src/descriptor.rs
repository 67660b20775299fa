// SPDX-License-Identifier: GPL-2.0

//! Descriptors: written down once as data, rendered for each speed.

use usbip_protocol::speed::Speed;

/// Type of an endpoint: the low bits of `bmAttributes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Transfer {
    Isochronous = 1,
    Bulk = 2,
    Interrupt = 3,
}

/// An endpoint other than 0.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `bEndpointAddress`, with the direction bit.
    pub address: u8,
    /// Type.
    pub transfer: Transfer,
    /// Synchronisation and usage bits of `bmAttributes`.
    pub attributes: u8,
    /// `wMaxPacketSize`.
    pub packet: u16,
    /// `bInterval`.
    pub interval: u8,
    /// Class-specific descriptors and extra bytes of this one: UAC1 endpoints are 9 bytes long.
    pub extra: Vec<u8>,
    /// Class-specific descriptors that follow.
    pub trailer: Vec<u8>,
}

impl Endpoint {
    /// A plain endpoint.
    pub fn new(address: u8, transfer: Transfer, packet: u16, interval: u8) -> Self {
        Self {
            address,
            transfer,
            attributes: 0,
            packet,
            interval,
            extra: Vec::new(),
            trailer: Vec::new(),
        }
    }

    /// A bulk endpoint of the packet size the speed prescribes.
    pub fn bulk(address: u8, speed: Speed) -> Self {
        let packet = match speed {
            Speed::High => 512,
            Speed::Super | Speed::SuperPlus => 1024,
            _ => 64,
        };
        Self::new(address, Transfer::Bulk, packet, 0)
    }

    /// The endpoint number.
    pub fn number(&self) -> u8 {
        self.address & 0x0f
    }

    fn render(&self, out: &mut Vec<u8>, speed: Speed) {
        out.push(7 + self.extra.len() as u8);
        out.extend([5, self.address, self.attributes | self.transfer as u8]);
        out.extend(self.packet.to_le_bytes());
        out.push(self.interval);
        out.extend(&self.extra);
        if speed.is_super() {
            let periodic = self.transfer != Transfer::Bulk;
            let bytes = if periodic { self.packet } else { 0 };
            out.extend([6, 0x30, 0, 0]);
            out.extend(bytes.to_le_bytes());
        }
        out.extend(&self.trailer);
    }
}

/// One alternate setting of an interface.
#[derive(Clone, Debug)]
pub struct Setting {
    /// `bInterfaceNumber`.
    pub interface: u8,
    /// `bAlternateSetting`.
    pub alternate: u8,
    /// Class, subclass, protocol.
    pub class: [u8; 3],
    /// Index of its string, or 0.
    pub string: u8,
    /// Class-specific descriptors between the interface and its endpoints.
    pub extra: Vec<u8>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// Everything a device says about itself.
#[derive(Clone, Debug)]
pub struct Descriptors {
    /// Speed it runs at.
    pub speed: Speed,
    /// `idVendor`.
    pub vendor: u16,
    /// `idProduct`.
    pub product: u16,
    /// Class, subclass, protocol of the device.
    pub class: [u8; 3],
    /// Strings from index 1 on: manufacturer, product, serial number, then the model's own.
    pub strings: Vec<String>,
    /// Settings of the only configuration, in descriptor order.
    pub settings: Vec<Setting>,
}

impl Descriptors {
    /// A device with one configuration without interfaces yet. Names are `rusbip` and `product`.
    pub fn new(speed: Speed, vendor: u16, product: u16, name: &str, serial: &str) -> Self {
        Self {
            speed,
            vendor,
            product,
            class: [0; 3],
            strings: vec!["rusbip".into(), name.into(), serial.into()],
            settings: Vec::new(),
        }
    }

    /// Adds a setting.
    #[must_use]
    pub fn with(mut self, setting: Setting) -> Self {
        self.settings.push(setting);
        self
    }

    /// `bNumInterfaces`.
    pub fn interfaces(&self) -> u8 {
        self.settings.iter().filter(|s| s.alternate == 0).count() as u8
    }

    /// Packet size of endpoint 0 as the device descriptor says it.
    fn ep0(&self) -> u8 {
        match self.speed {
            Speed::Low => 8,
            Speed::Super | Speed::SuperPlus => 9,
            _ => 64,
        }
    }

    fn bcd_usb(&self) -> u16 {
        match self.speed {
            Speed::Super => 0x0300,
            Speed::SuperPlus => 0x0310,
            Speed::High => 0x0200,
            _ => 0x0110,
        }
    }

    /// The device descriptor.
    pub fn device(&self) -> Vec<u8> {
        let mut out = vec![18, 1];
        out.extend(self.bcd_usb().to_le_bytes());
        out.extend(self.class);
        out.push(self.ep0());
        out.extend(self.vendor.to_le_bytes());
        out.extend(self.product.to_le_bytes());
        out.extend(0x0100u16.to_le_bytes());
        out.extend([1, 2, 3, 1]);
        out
    }

    /// The configuration descriptor with all that belongs to it.
    pub fn configuration(&self) -> Vec<u8> {
        let mut out = vec![9, 2, 0, 0, self.interfaces(), 1, 0, 0x80, 50];
        for setting in &self.settings {
            out.extend([9, 4, setting.interface, setting.alternate]);
            out.push(setting.endpoints.len() as u8);
            out.extend(setting.class);
            out.push(setting.string);
            out.extend(&setting.extra);
            for endpoint in &setting.endpoints {
                endpoint.render(&mut out, self.speed);
            }
        }
        let total = (out.len() as u16).to_le_bytes();
        out[2..4].copy_from_slice(&total);
        out
    }

    /// The qualifier, which high-speed devices have.
    pub fn qualifier(&self) -> Option<Vec<u8>> {
        (self.speed == Speed::High).then(|| {
            let [class, subclass, protocol] = self.class;
            vec![10, 6, 0x00, 0x02, class, subclass, protocol, 64, 1, 0]
        })
    }

    /// The configuration at the other speed, which goes with the qualifier. It is the same here:
    /// nobody moves to a full-speed bus.
    pub fn other_speed(&self) -> Option<Vec<u8>> {
        self.qualifier()?;
        let mut out = self.configuration();
        out[1] = 7;
        Some(out)
    }

    /// The binary object store, which SuperSpeed devices have.
    pub fn bos(&self) -> Option<Vec<u8>> {
        if !self.speed.is_super() {
            return None;
        }
        // USB 2.0 extension (LPM), SuperSpeed (full to 5 Gb/s, latencies 10 and 256 us).
        let mut body = vec![7, 0x10, 2, 2, 0, 0, 0];
        body.extend([10, 0x10, 3, 0, 0x0e, 0, 3, 10, 0x00, 0x01]);
        if self.speed == Speed::SuperPlus {
            // One symmetric lane pair of 10 Gb/s: USB 3.2, 9.6.2.5.
            body.extend([20, 0x10, 0x0a, 0, 0x01, 0, 0, 0, 0x00, 0x11, 0, 0]);
            body.extend(0x000a_4030u32.to_le_bytes());
            body.extend(0x000a_40b0u32.to_le_bytes());
        }
        let count = if self.speed == Speed::SuperPlus { 3 } else { 2 };
        let mut out = vec![5, 0x0f];
        out.extend((5 + body.len() as u16).to_le_bytes());
        out.push(count);
        out.extend(body);
        Some(out)
    }

    /// A string descriptor.
    pub fn string(&self, index: u8) -> Option<Vec<u8>> {
        if index == 0 {
            return Some(vec![4, 3, 0x09, 0x04]);
        }
        let text: Vec<u16> = self
            .strings
            .get(usize::from(index) - 1)?
            .encode_utf16()
            .take(126)
            .collect();
        let mut out = vec![2 + 2 * text.len() as u8, 3];
        out.extend(text.iter().flat_map(|unit| unit.to_le_bytes()));
        Some(out)
    }

    /// The setting of an interface, if it exists.
    pub fn setting(&self, interface: u8, alternate: u8) -> Option<&Setting> {
        self.settings
            .iter()
            .find(|s| s.interface == interface && s.alternate == alternate)
    }

    /// The endpoint with this address in any setting. An address has one type throughout a model.
    pub fn endpoint(&self, address: u8) -> Option<&Endpoint> {
        self.settings
            .iter()
            .flat_map(|s| &s.endpoints)
            .find(|e| e.address == address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(speed: Speed) -> Descriptors {
        Descriptors::new(speed, 0x1209, 1, "sample", "7").with(Setting {
            interface: 0,
            alternate: 0,
            class: [0xff; 3],
            string: 0,
            extra: vec![],
            endpoints: vec![Endpoint::bulk(0x81, speed)],
        })
    }

    /// Walks a chain of descriptors; each must end where the next begins.
    fn chain(bytes: &[u8]) -> Vec<u8> {
        let (mut at, mut kinds) = (0, Vec::new());
        while at < bytes.len() {
            kinds.push(bytes[at + 1]);
            at += usize::from(bytes[at]);
        }
        assert_eq!(at, bytes.len());
        kinds
    }

    #[test]
    fn configuration_is_a_chain_of_its_total_length() {
        let config = sample(Speed::High).configuration();
        assert_eq!(
            usize::from(u16::from_le_bytes([config[2], config[3]])),
            config.len()
        );
        assert_eq!(chain(&config), [2, 4, 5]);
        assert_eq!(
            chain(&sample(Speed::Super).configuration()),
            [2, 4, 5, 0x30]
        );
    }

    #[test]
    fn bos_counts_its_capabilities() {
        assert_eq!(sample(Speed::High).bos(), None);
        for (speed, count) in [(Speed::Super, 2), (Speed::SuperPlus, 3)] {
            let bos = sample(speed).bos().unwrap();
            assert_eq!(usize::from(bos[2]), bos.len());
            assert_eq!(usize::from(bos[4]), count);
            assert_eq!(chain(&bos[5..]), vec![0x10; count]);
        }
    }

    #[test]
    fn strings() {
        let sample = sample(Speed::Full);
        assert_eq!(sample.string(0).unwrap(), [4, 3, 9, 4]);
        assert_eq!(sample.string(3).unwrap(), [4, 3, b'7', 0]);
        assert_eq!(sample.string(4), None);
    }
}
