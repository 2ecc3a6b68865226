//! `TFRecord`: length, its checksum, the bytes, their checksum; all little-endian.
//!
//! Source: `tensorflow/core/lib/io/record_writer.cc`. The checksum is CRC-32C (RFC 3720, appendix
//! B.4), masked so that a checksum of checksums is none.

const MASK: u32 = 0xa282_ead8;
/// Castagnoli's polynomial, lowest bit first.
const POLYNOMIAL: u32 = 0x82f6_3b78;
const TABLE: [u32; 256] = table();

/// A record that holds `data`.
pub(super) fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let checksums = [&length[..], data].map(|bytes| masked(bytes).to_le_bytes());
    [&length[..], &checksums[0], data, &checksums[1]].concat()
}

fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(MASK)
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8);
    !bytes.iter().fold(!0, step)
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

/// What the records of a file hold; nothing if one is damaged.
#[cfg(test)]
pub(super) fn unframe(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        let (checksum, rest) = rest.split_first_chunk::<4>()?;
        let (data, rest) = rest.split_at_checked(u64::from_le_bytes(*length) as usize)?;
        let (of_data, rest) = rest.split_first_chunk::<4>()?;
        let good = masked(length) == u32::from_le_bytes(*checksum)
            && masked(data) == u32::from_le_bytes(*of_data);
        if !good {
            return None;
        }
        records.push(data);
        bytes = rest;
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32c() {
        // The check value of the catalogue of CRCs, and the examples of RFC 3720, B.4.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn what_was_framed_is_found_again_and_damage_is_seen() {
        let mut bytes = [frame(b"one"), frame(b""), frame(&[7; 300])].concat();
        let records = unframe(&bytes).map(|records| records.concat());
        assert_eq!(records, Some([&b"one"[..], &[7; 300]].concat()));
        bytes[13] ^= 1;
        assert_eq!(unframe(&bytes), None);
    }
}
