//! The pickle machine, for the operations that torch writes and no other.
//!
//! Every operation is of bounded cost, and there is a limit to their number; what they build
//! lies flat in a [`Heap`]. So time and memory follow the length of the pickle, whatever it says.
//!
//! Source: `pickletools.py` and `pickle.py` of Python 3.11, protocols 2 to 5, and
//! `torch/_weights_only_unpickler.py` of torch 2.15.

use std::collections::HashMap;

use super::globals::{Global, call, storage};
use super::refusal::{DAMAGED, NOT_ONLY_TENSORS, Refusal, Result};
use super::value::{Heap, Value};

/// A checkpoint of SDXL takes 60,000; a training state with its optimizer three times that.
const MOST_OPERATIONS: usize = 1 << 21;

/// One pickle, read.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    pub(super) value: Value<'a>,
    pub(super) heap: Heap<'a>,
    /// What follows after it.
    pub(super) rest: &'a [u8],
}

impl<'a> Pickle<'a> {
    /// Reads the pickle at the start of these bytes.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self> {
        let mut machine = Machine { bytes, ..Machine::default() };
        let start = machine.bytes.get(..2);
        if !matches!(start, Some([0x80, 2..=5])) {
            return Err(damaged(match start {
                Some([0x80, version]) => format!("pickle protocol {version}, expected 2 to 5"),
                None => format!("its pickle is cut off: {} bytes are left", bytes.len()),
                _ => "it does not begin as a pickle of protocol 2 to 5 does".to_owned(),
            }));
        }
        for _ in 0..MOST_OPERATIONS {
            let at = machine.at;
            match machine.step() {
                Ok(None) => {}
                Ok(Some(value)) => {
                    return Ok(Self { value, heap: machine.heap, rest: &bytes[machine.at..] });
                }
                Err(refusal) => return Err(refusal.at(at)),
            }
        }
        Err(Refusal::new(format!(
            "its pickle has more than {MOST_OPERATIONS} operations, more than any model needs"
        )))
    }
}

#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    heap: Heap<'a>,
}

impl<'a> Machine<'a> {
    /// One operation; the last one gives the value.
    fn step(&mut self) -> Result<Option<Value<'a>>> {
        match self.take(1)?[0] {
            b'.' => self.pop().map(Some),
            operation => self.run(operation).map(|()| None),
        }
    }

    fn run(&mut self, operation: u8) -> Result<()> {
        match operation {
            // PROTO and FRAME say nothing that would be needed.
            0x80 => self.take(1).map(|_| ())?,
            0x95 => self.take(8).map(|_| ())?,
            b'(' => self.marks.push(self.stack.len()),
            b'q' | b'r' | 0x94 => self.remember(operation)?,
            b'h' | b'j' => self.recall(operation)?,
            b'a' | b'e' | b's' | b'u' => self.fill(operation)?,
            b')' | b't' | 0x85..=0x87 => self.tuple(operation)?,
            b'c' | 0x93 => {
                let global = self.global(operation)?;
                self.stack.push(Value::Global(global));
            }
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                let value = call(&mut self.heap, function, arguments)?;
                self.stack.push(value);
            }
            b'b' => self.build()?,
            b'Q' => {
                let id = self.pop()?;
                let value = storage(&mut self.heap, id)?;
                self.stack.push(value);
            }
            _ => {
                let value = self.plain(operation)?;
                self.stack.push(value);
            }
        }
        Ok(())
    }

    /// A value that stands in the pickle itself, or an empty container.
    fn plain(&mut self, operation: u8) -> Result<Value<'a>> {
        Ok(match operation {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => Value::Int(i64::from(self.number::<4>().map(i32::from_le_bytes)?)),
            b'K' => Value::Int(i64::from(self.number::<1>()?[0])),
            b'M' => Value::Int(i64::from(self.number::<2>().map(u16::from_le_bytes)?)),
            0x8a => {
                let length = usize::from(self.number::<1>()?[0]);
                self.long(length)?
            }
            0x8b => {
                let length = self.length::<4>()?;
                self.long(length)?
            }
            b'G' => Value::Float(self.number::<8>().map(f64::from_be_bytes)?),
            b'U' | 0x8c => self.text::<1>()?,
            b'T' | b'X' => self.text::<4>()?,
            0x8d => self.text::<8>()?,
            b'C' => self.skip::<1>()?,
            b'B' => self.skip::<4>()?,
            0x8e | 0x96 => self.skip::<8>()?,
            b'}' => self.heap.dict(),
            b']' => self.heap.list(),
            other => return Err(refused(other)),
        })
    }

    fn remember(&mut self, operation: u8) -> Result<()> {
        let place = match operation {
            b'q' => u32::from(self.number::<1>()?[0]),
            b'r' => self.number::<4>().map(u32::from_le_bytes)?,
            _ => u32::try_from(self.memo.len()).expect("fewer than the operations of a pickle"),
        };
        let value = *self.top()?;
        self.memo.insert(place, value);
        Ok(())
    }

    fn recall(&mut self, operation: u8) -> Result<()> {
        let place = match operation {
            b'h' => u32::from(self.number::<1>()?[0]),
            _ => self.number::<4>().map(u32::from_le_bytes)?,
        };
        let value = self.memo.get(&place);
        let value = value.ok_or_else(|| damaged(format!("it recalls {place}, never kept")))?;
        self.stack.push(*value);
        Ok(())
    }

    /// Adds to the list or dictionary below.
    fn fill(&mut self, operation: u8) -> Result<()> {
        let start = match operation {
            b'a' => self.stack.len().checked_sub(1),
            b's' => self.stack.len().checked_sub(2),
            _ => Some(self.mark()?),
        };
        let floor = self.floor();
        let start = start.filter(|start| *start > floor).ok_or_else(empty)?;
        let items = self.stack.drain(start..).collect::<Vec<_>>();
        let target = *self.top()?;
        match (operation, target) {
            (b'a' | b'e', Value::List(list)) => {
                self.heap.lists[list as usize].extend(items);
                Ok(())
            }
            (b's' | b'u', Value::Dict(dict)) => {
                let (pairs, odd) = items.as_chunks::<2>();
                self.heap.dicts[dict as usize]
                    .extend(pairs.iter().map(|[key, value]| (*key, *value)));
                match odd {
                    [] => Ok(()),
                    _ => Err(damaged("a dictionary has a key without a value")),
                }
            }
            (_, target) => Err(damaged(format!("it adds items to {}", target.kind()))),
        }
    }

    fn tuple(&mut self, operation: u8) -> Result<()> {
        let start = match operation {
            b')' => self.stack.len(),
            b't' => self.mark()?,
            _ => {
                let length = usize::from(operation - 0x84);
                let start = self.stack.len().checked_sub(length);
                start.filter(|start| *start >= self.floor()).ok_or_else(empty)?
            }
        };
        let tuple = self.heap.tuple(self.stack.drain(start..));
        self.stack.push(tuple);
        Ok(())
    }

    /// Attributes of an object. A dictionary of weights has some; they are not needed.
    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        match (*self.top()?, state) {
            (Value::Dict(_), Value::Dict(_)) => Ok(()),
            (target, _) => {
                Err(damaged(format!("it gives attributes to {}", target.kind()))
                    .hint(NOT_ONLY_TENSORS))
            }
        }
    }

    fn global(&mut self, operation: u8) -> Result<Global> {
        if operation == b'c' {
            let (module, name) = (self.line()?, self.line()?);
            return Global::find(module, name);
        }
        match (self.pop()?, self.pop()?) {
            (Value::Text(name), Value::Text(module)) => Global::find(module, name),
            (name, module) => Err(damaged(format!(
                "it names a class by {} and {}, expected text",
                module.kind(),
                name.kind()
            ))),
        }
    }

    /// The integer in the next `length` bytes.
    fn long(&mut self, length: usize) -> Result<Value<'a>> {
        let bytes = self.take(length)?;
        if length > size_of::<i64>() {
            return Ok(Value::Long(bytes));
        }
        let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
        let mut wide = [if negative { 0xFF } else { 0 }; 8];
        wide[..length].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(wide)))
    }

    /// Text whose length is written in `N` bytes before it.
    fn text<const N: usize>(&mut self) -> Result<Value<'a>> {
        let length = self.length::<N>()?;
        let text = std::str::from_utf8(self.take(length)?);
        text.map(Value::Text).map_err(|_| damaged("it holds text that is not UTF-8"))
    }

    /// Bytes whose length is written in `N` bytes before them.
    fn skip<const N: usize>(&mut self) -> Result<Value<'a>> {
        let length = self.length::<N>()?;
        self.take(length).map(|_| Value::Bytes)
    }

    fn length<const N: usize>(&mut self) -> Result<usize> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(&self.number::<N>()?);
        Ok(usize::try_from(u64::from_le_bytes(wide)).unwrap_or(usize::MAX))
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(*self.take(N)?.first_chunk().expect("as many bytes as were asked for"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let bytes = rest.get(..length).ok_or_else(|| {
            damaged(format!("its pickle is cut off: {} bytes are left of {length}", rest.len()))
        })?;
        self.at += length;
        Ok(bytes)
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or_else(|| damaged("its pickle is cut off in the middle of a name"))?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| damaged("it holds text that is not UTF-8"))
    }

    /// What is below the last mark is out of reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn mark(&mut self) -> Result<usize> {
        self.marks.pop().ok_or_else(empty)
    }

    fn top(&self) -> Result<&Value<'a>> {
        self.stack[self.floor()..].last().ok_or_else(empty)
    }

    fn pop(&mut self) -> Result<Value<'a>> {
        self.top()?;
        self.stack.pop().ok_or_else(empty)
    }
}

/// The operations of pickle that torch's files have no use for: they make objects of any class,
/// or belong to protocols 0 and 1.
const REFUSED: [(u8, &str); 25] = [
    (b'i', "INST"),
    (b'o', "OBJ"),
    (0x81, "NEWOBJ"),
    (0x92, "NEWOBJ_EX"),
    (0x82, "EXT1"),
    (0x83, "EXT2"),
    (0x84, "EXT4"),
    (b'P', "PERSID"),
    (0x97, "NEXT_BUFFER"),
    (0x98, "READONLY_BUFFER"),
    (0x8f, "EMPTY_SET"),
    (0x90, "ADDITEMS"),
    (0x91, "FROZENSET"),
    (b'0', "POP"),
    (b'1', "POP_MARK"),
    (b'2', "DUP"),
    (b'd', "DICT"),
    (b'l', "LIST"),
    (b'g', "GET"),
    (b'p', "PUT"),
    (b'I', "INT"),
    (b'L', "LONG"),
    (b'F', "FLOAT"),
    (b'S', "STRING"),
    (b'V', "UNICODE"),
];

fn refused(operation: u8) -> Refusal {
    match REFUSED.iter().find(|(code, _)| *code == operation) {
        Some((_, name)) => Refusal::new(format!(
            "it uses the pickle operation {name}, which files of tensors have no use for"
        ))
        .hint(NOT_ONLY_TENSORS),
        None => damaged(format!("{operation:#04x} is no pickle operation")),
    }
}

fn empty() -> Refusal {
    damaged("its pickle takes a value from where there is none")
}

fn damaged(reason: impl Into<String>) -> Refusal {
    Refusal::new(reason).hint(DAMAGED)
}
