//! The zip that `torch.save` writes: whole entries, stored as they are, at places in the file.
//!
//! Of zip, only what torch uses is believed. Everything is read from the directory at the end
//! and checked against the header before each entry, so two readers cannot see two files. The
//! checksums are not compared: torch does not compare them either, and may have left them out.
//!
//! Source: PKWARE's APPNOTE 6.3.10, and `_save` in `torch/serialization.py` of torch 2.15.

use std::collections::BTreeMap;
use std::ops::Range;

use super::refusal::{DAMAGED, Refusal, Result};
use crate::files::tensor_file::shown;

/// Length of the record at the end of every zip, without the comment that torch never writes.
const END: usize = 22;
/// Length of the 64-bit form of that record, and of the record that points to it.
const END64: usize = 56;
const LOCATOR: usize = 20;
/// Lengths of an entry's header and of its place in the directory, without the names.
const LOCAL: usize = 30;
const CENTRAL: usize = 46;

const ENCRYPTED: u16 = 1;
/// The sizes follow after the data, and may be 0 in the header before it.
const SIZES_FOLLOW: u16 = 8;
const STORED: u16 = 0;

/// The entries of a zip, none of them overlapping another.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    entries: BTreeMap<&'a str, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    data: Range<usize>,
    method: u16,
}

impl<'a> Archive<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let directory = Directory::find(bytes)?;
        let mut records = &bytes[directory.place.clone()];
        let mut entries = BTreeMap::new();
        let mut places = Vec::new();
        for _ in 0..directory.count {
            let (record, rest) = Record::parse(records)?;
            records = rest;
            let entry = record.locate(&bytes[..directory.place.start])?;
            places.push((record.start..entry.data.end, record.name));
            if entries.insert(record.name, entry).is_some() {
                return Err(damaged(format!("it holds `{}` twice", shown(record.name))));
            }
        }
        if !records.is_empty() {
            return Err(damaged(format!(
                "its directory has {} bytes after its {} entries",
                records.len(),
                directory.count
            )));
        }
        places.sort_by_key(|(place, _)| (place.start, place.end));
        for pair in places.windows(2) {
            let ((before, first), (after, second)) = (&pair[0], &pair[1]);
            if after.start < before.end {
                let (first, second) = (shown(first), shown(second));
                return Err(damaged(format!("its entries `{first}` and `{second}` overlap")));
            }
        }
        Ok(Self { entries })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.entries.keys().copied()
    }

    /// Where the bytes of an entry lie in the file, if there is one of this name.
    pub(super) fn get(&self, name: &str) -> Result<Option<Range<usize>>> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        if entry.method == STORED {
            return Ok(Some(entry.data.clone()));
        }
        Err(Refusal::new(format!(
            "`{}` is compressed (method {}), which torch never does",
            shown(name),
            entry.method
        ))
        .hint("unpack it and pack it again without compression (`zip -0 -r`)"))
    }
}

/// Where the directory lies, and how many entries it has.
struct Directory {
    place: Range<usize>,
    count: u64,
}

impl Directory {
    fn find(bytes: &[u8]) -> Result<Self> {
        let start = bytes.len().checked_sub(END).ok_or_else(|| no_end(bytes))?;
        let end = &bytes[start..];
        if !end.starts_with(b"PK\x05\x06") || u16_at(end, 20) != 0 {
            return Err(no_end(bytes));
        }
        let mut count = u64::from(u16_at(end, 10));
        let mut size = u64::from(u32_at(end, 12));
        let mut offset = u64::from(u32_at(end, 16));
        let mut limit = start;
        let here = u64::from(u16_at(end, 8));
        let mut one_disk = u16_at(end, 4) == 0 && u16_at(end, 6) == 0 && here == count;
        if let Some((place, wide)) = wide_end(bytes, start)? {
            let fits = |narrow: u64, wide: u64, full: u64| narrow == wide || narrow == full;
            let wide_count = u64_at(wide, 32);
            let (wide_size, wide_offset) = (u64_at(wide, 40), u64_at(wide, 48));
            if !fits(count, wide_count, 0xFFFF)
                || !fits(size, wide_size, 0xFFFF_FFFF)
                || !fits(offset, wide_offset, 0xFFFF_FFFF)
            {
                return Err(damaged("the two records at its end contradict each other"));
            }
            (count, size, offset, limit) = (wide_count, wide_size, wide_offset, place);
            one_disk &= u32_at(wide, 16) == 0 && u32_at(wide, 20) == 0;
            one_disk &= u64_at(wide, 24) == count;
        }
        if !one_disk {
            return Err(damaged("it is one part of a zip in several"));
        }
        if offset.checked_add(size) != Some(limit as u64) {
            return Err(damaged(format!(
                "its directory is said to be {size} bytes long at {offset}, but it ends at {limit}"
            )));
        }
        if count > size / CENTRAL as u64 {
            return Err(damaged(format!("{count} entries do not fit its directory")));
        }
        let offset = usize::try_from(offset).expect("not above the end of bytes in memory");
        Ok(Self { place: offset..limit, count })
    }
}

/// The 64-bit record at the end, where there is one, and its place.
fn wide_end(bytes: &[u8], end: usize) -> Result<Option<(usize, &[u8])>> {
    let Some(start) = end.checked_sub(LOCATOR) else { return Ok(None) };
    let locator = &bytes[start..end];
    if !locator.starts_with(b"PK\x06\x07") {
        return Ok(None);
    }
    let place = start.checked_sub(END64).filter(|place| u64_at(locator, 8) == *place as u64);
    let record = place.map(|place| (place, &bytes[place..start]));
    match record {
        // The length of what follows after the length.
        Some((place, record))
            if record.starts_with(b"PK\x06\x06") && u64_at(record, 4) == END64 as u64 - 12 =>
        {
            Ok(Some((place, record)))
        }
        _ => Err(damaged("its 64-bit record is not where the end of the file says")),
    }
}

/// One entry as the directory has it.
struct Record<'a> {
    name: &'a str,
    flags: u16,
    method: u16,
    size: u64,
    start: usize,
}

impl<'a> Record<'a> {
    /// The first record and what follows after it.
    fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8])> {
        let broken = || damaged("its directory is broken");
        if bytes.len() < CENTRAL || !bytes.starts_with(b"PK\x01\x02") {
            return Err(broken());
        }
        let (head, rest) = bytes.split_at(CENTRAL);
        let lengths = [28, 30, 32].map(|at| usize::from(u16_at(head, at)));
        let [name, extra, comment] = lengths;
        if rest.len() < name + extra + comment {
            return Err(broken());
        }
        let (name, rest) = rest.split_at(name);
        let (extra, rest) = rest.split_at(extra);
        let name = std::str::from_utf8(name)
            .map_err(|_| damaged("the name of an entry is no UTF-8 text"))?;
        let mut sizes = [u32_at(head, 24), u32_at(head, 20), u32_at(head, 42)].map(u64::from);
        widen(&mut sizes, extra)
            .ok_or_else(|| damaged(format!("the sizes of `{}` are missing", shown(name))))?;
        let [size, packed, start] = sizes;
        let (flags, method) = (u16_at(head, 8), u16_at(head, 10));
        if flags & ENCRYPTED != 0 {
            return Err(Refusal::new(format!("`{}` is encrypted", shown(name))));
        }
        if method == STORED && size != packed {
            return Err(damaged(format!(
                "`{}` is said to be {size} bytes long and to take {packed}",
                shown(name)
            )));
        }
        let start = usize::try_from(start).map_err(|_| outside(name))?;
        Ok((Self { name, flags, method, size: packed, start }, &rest[comment..]))
    }

    /// Finds the data behind the entry's own header, which must say the same.
    fn locate(&self, bytes: &[u8]) -> Result<Entry> {
        let name = self.name;
        let differs = |what: &str| {
            damaged(format!("its directory and the header of `{}` differ in {what}", shown(name)))
        };
        let head = bytes.get(self.start..).and_then(|rest| rest.get(..LOCAL));
        let head = head.ok_or_else(|| outside(name))?;
        if !head.starts_with(b"PK\x03\x04") {
            return Err(damaged(format!("where `{}` should begin is no entry", shown(name))));
        }
        let start = self.start + LOCAL;
        let (length, extra) = (usize::from(u16_at(head, 26)), usize::from(u16_at(head, 28)));
        let names = bytes.get(start..start + length + extra).ok_or_else(|| outside(name))?;
        if &names[..length] != name.as_bytes() {
            return Err(differs("its name"));
        }
        if u16_at(head, 8) != self.method || u16_at(head, 6) & ENCRYPTED != 0 {
            return Err(differs("how it is packed"));
        }
        let mut sizes = [u32_at(head, 22), u32_at(head, 18)].map(u64::from);
        let later = (self.flags | u16_at(head, 6)) & SIZES_FOLLOW != 0;
        let widened = widen(&mut sizes, &names[length..]).is_some();
        let equal = sizes[1] == self.size;
        if !(equal || later && (sizes[1] == 0 || !widened)) {
            return Err(differs("its size"));
        }
        let data = start + length + extra;
        let end = usize::try_from(self.size).ok().and_then(|size| data.checked_add(size));
        let end = end.filter(|end| *end <= bytes.len()).ok_or_else(|| outside(name))?;
        Ok(Entry { data: data..end, method: self.method })
    }
}

/// Replaces sizes that 32 bits cannot hold by those of the 64-bit field, in its order.
fn widen(sizes: &mut [u64], mut extra: &[u8]) -> Option<()> {
    const FULL: u64 = 0xFFFF_FFFF;
    const WIDE: u16 = 1;

    if !sizes.contains(&FULL) {
        return Some(());
    }
    let mut field = loop {
        let (head, rest) = extra.split_at_checked(4)?;
        let (field, rest) = rest.split_at_checked(usize::from(u16_at(head, 2)))?;
        if u16_at(head, 0) == WIDE {
            break field;
        }
        extra = rest;
    };
    for size in sizes.iter_mut().filter(|size| **size == FULL) {
        let (value, rest) = field.split_first_chunk::<8>()?;
        (*size, field) = (u64::from_le_bytes(*value), rest);
    }
    Some(())
}

/// Why there is no record at the end: something follows it, or it was cut off.
fn no_end(bytes: &[u8]) -> Refusal {
    let tail = &bytes[bytes.len().saturating_sub(END + usize::from(u16::MAX))..];
    let found = tail.windows(4).rposition(|window| window == b"PK\x05\x06");
    match found.map(|at| tail.len() - at) {
        Some(length) if length > END => {
            damaged(format!("{} bytes follow after its end", length - END))
        }
        _ => damaged(format!(
            "it is cut off: it has {} bytes, and the directory that ends a zip is not there",
            bytes.len()
        )),
    }
}

fn outside(name: &str) -> Refusal {
    damaged(format!("`{}` lies outside of the file", shown(name)))
}

fn damaged(reason: impl Into<String>) -> Refusal {
    Refusal::new(reason).hint(DAMAGED)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
