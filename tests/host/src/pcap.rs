// SPDX-License-Identifier: GPL-2.0

//! A capture file of one TCP connection, for tshark.

/// Who sends.
#[derive(Clone, Copy, PartialEq)]
pub enum From {
    /// Port 40000.
    Client,
    /// Port 3240.
    Server,
}

/// Writes a conversation, one packet per message, as a capture of raw IPv4 packets.
pub fn capture(messages: &[(From, Vec<u8>)]) -> Vec<u8> {
    const LINKTYPE_RAW: u32 = 101;
    let mut file = Vec::new();
    file.extend(0xa1b2_c3d4_u32.to_le_bytes());
    file.extend([2, 0, 4, 0]);
    file.extend([0; 8]);
    file.extend(65535_u32.to_le_bytes());
    file.extend(LINKTYPE_RAW.to_le_bytes());

    let (mut client_seq, mut server_seq) = (1000_u32, 5000_u32);
    const SYN: u8 = 2;
    const PSH_ACK: u8 = 0x18;
    const SYN_ACK: u8 = 0x12;
    const ACK: u8 = 0x10;
    let mut time = 0;
    let mut put = |from: From, seq: u32, ack: u32, flags: u8, payload: &[u8]| {
        let (src, dst, sport, dport) = match from {
            From::Client => (1, 2, 40000_u16, 3240_u16),
            From::Server => (2, 1, 3240, 40000),
        };
        let total = 40 + payload.len();
        let mut packet = vec![0x45, 0];
        packet.extend((total as u16).to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, src, 10, 0, 0, dst]);
        packet.extend(sport.to_be_bytes());
        packet.extend(dport.to_be_bytes());
        packet.extend(seq.to_be_bytes());
        packet.extend(ack.to_be_bytes());
        packet.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        packet.extend(payload);
        time += 1;
        file.extend(u32::to_le_bytes(time));
        file.extend([0; 4]);
        file.extend((packet.len() as u32).to_le_bytes());
        file.extend((packet.len() as u32).to_le_bytes());
        file.extend(packet);
    };
    put(From::Client, client_seq, 0, SYN, &[]);
    client_seq += 1;
    put(From::Server, server_seq, client_seq, SYN_ACK, &[]);
    server_seq += 1;
    put(From::Client, client_seq, server_seq, ACK, &[]);
    for (from, payload) in messages {
        match from {
            From::Client => {
                put(*from, client_seq, server_seq, PSH_ACK, payload);
                client_seq += payload.len() as u32;
            }
            From::Server => {
                put(*from, server_seq, client_seq, PSH_ACK, payload);
                server_seq += payload.len() as u32;
            }
        }
    }
    file
}
