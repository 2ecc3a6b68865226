//! The few messages of `TensorBoard`'s protocol that a training has to say.
//!
//! Source: `tensorboard/compat/proto/event.proto` and `summary.proto`. The wire format is that of
//! protocol buffers: a number for field and kind, then the value.

/// What an event says.
pub(super) enum What<'a> {
    /// The first of a file.
    Version,
    /// From this step on, earlier files no longer count.
    Start,
    /// Numbers with their tags.
    Scalars(&'a [(&'a str, f32)]),
    /// A picture.
    Image(&'a Image<'a>),
}

/// A picture and its size.
pub(super) struct Image<'a> {
    pub(super) tag: &'a str,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) png: &'a [u8],
}

/// `SessionLog.SessionStatus.START`.
const START: u64 = 1;
/// `Image.colorspace`: red, green and blue.
const RGB: u64 = 3;

/// The bytes of an `Event`; `time` in seconds since 1970.
pub(super) fn encode(time: f64, step: u64, what: &What<'_>) -> Vec<u8> {
    let mut event = Message::default();
    event.double(1, time);
    event.number(2, step);
    match what {
        What::Version => event.bytes(3, b"brain.Event:2"),
        What::Start => {
            let mut session = Message::default();
            session.number(1, START);
            event.message(7, &session);
        }
        What::Scalars(scalars) => {
            let mut summary = Message::default();
            for (tag, number) in *scalars {
                let mut value = Message::default();
                value.bytes(1, tag.as_bytes());
                value.float(2, *number);
                summary.message(1, &value);
            }
            event.message(5, &summary);
        }
        What::Image(Image { tag, width, height, png }) => {
            let mut image = Message::default();
            image.number(1, u64::from(*height));
            image.number(2, u64::from(*width));
            image.number(3, RGB);
            image.bytes(4, png);
            let mut value = Message::default();
            value.bytes(1, tag.as_bytes());
            value.message(4, &image);
            let mut summary = Message::default();
            summary.message(1, &value);
            event.message(5, &summary);
        }
    }
    event.0
}

/// A message on its way.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.varint(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn message(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
    }

    /// Seven bits a byte, the lowest first.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_takes_seven_bits_a_byte() {
        // The examples of the encoding's own documentation.
        let bytes = |value| {
            let mut message = Message::default();
            message.number(1, value);
            message.0
        };
        assert_eq!(bytes(150), [0x08, 0x96, 0x01]);
        assert_eq!(bytes(0), [0x08, 0x00]);
        assert_eq!(bytes(u64::MAX).len(), 11);
    }

    #[test]
    fn a_scalar_is_what_protoc_writes() {
        // From `Event(wall_time=1.5, step=300, summary=…)` of TensorBoard's own classes.
        let event = encode(1.5, 300, &What::Scalars(&[("loss", 0.25)]));
        let expected = [
            &[0x09][..],
            &1.5f64.to_le_bytes(),
            &[0x10, 0xac, 0x02, 0x2a, 13, 0x0a, 11, 0x0a, 4],
            b"loss",
            &[0x15],
            &0.25f32.to_le_bytes(),
        ];
        assert_eq!(event, expected.concat());
    }
}
