//! Streams and ChannelData.

use std::ops::RangeInclusive;

use thirl_common::wire::{
    CHANNEL_HEADER_LEN, ChannelData, ChannelDataError, FrameLen, FramingError, Message, Protocol, classify,
    classify_at_relay, frame_len, frame_len_at_relay, packet_frame_len, padded,
};

/// The longest that a reader may ever have to buffer: the longest STUN message. All else is shorter.
const MAX_BUFFERED: usize = 65_556;

/// A stream gives the same frames however it is cut.
///
/// The first byte says which framing, and into how many pieces, the bytes after it how long they are.
pub fn framing(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else { return };
    let Some((lengths, stream)) = rest.split_at_checked((choice % 16).into()) else { return };
    let cut = match choice / 16 % 4 {
        0 | 1 => frame_len,
        2 => frame_len_at_relay,
        _ => packet_frame_len,
    };
    let whole = read(cut, [stream]);
    let mut rest = stream;
    let pieces = lengths.iter().map(|&length| {
        let (piece, after) = rest.split_at(usize::from(length).min(rest.len()));
        rest = after;
        piece
    });
    let mut in_pieces = read(cut, pieces);
    in_pieces.receive(cut, rest);
    assert_eq!(whole, in_pieces);
    assert_eq!(whole, read(cut, stream.chunks(1)));
}

/// How a stream is cut: [`frame_len`] and its like.
type Cut = fn(&[u8]) -> Result<FrameLen, FramingError>;

fn read<'a>(cut: Cut, pieces: impl IntoIterator<Item = &'a [u8]>) -> Reader {
    let mut reader = Reader::default();
    pieces.into_iter().for_each(|piece| reader.receive(cut, piece));
    reader
}

/// What a connection does.
#[derive(Debug, Default, PartialEq)]
struct Reader {
    buffered: Vec<u8>,
    frames: Vec<Vec<u8>>,
    broken: Option<FramingError>,
}

impl Reader {
    fn receive(&mut self, cut: Cut, piece: &[u8]) {
        if self.broken.is_some() {
            return;
        }
        self.buffered.extend_from_slice(piece);
        loop {
            match cut(&self.buffered) {
                Ok(FrameLen::Complete { frame, padded }) => {
                    assert!(0 < frame && frame <= padded && padded < frame + 4 && padded <= MAX_BUFFERED);
                    self.frames.push(self.buffered[..frame].to_vec());
                    self.buffered.drain(..padded);
                }
                Ok(FrameLen::NeedMore(needed)) => {
                    assert!(needed > self.buffered.len() && needed <= MAX_BUFFERED, "needs {needed}");
                    return;
                }
                Err(error) => {
                    self.broken = Some(error);
                    // What is left is never looked at again.
                    self.buffered.clear();
                    return;
                }
            }
        }
    }
}

/// ChannelData is read if and only if its header allows it, and written alike; a stream agrees on its length. A relay
/// reads it with more channel numbers.
pub fn channel_data(data: &[u8]) {
    let parsed = ChannelData::parse(data);
    let at_relay = ChannelData::parse_at_relay(data);
    check_channel_data(data, parsed, classify, frame_len, 0x4000..=0x4FFF);
    check_channel_data(data, at_relay, classify_at_relay, frame_len_at_relay, 0x4000..=0x7FFF);
    assert!(Message::parse(data).is_err() || at_relay.is_err(), "both STUN and ChannelData");
    assert!(parsed.is_err() || parsed == at_relay);
}

fn check_channel_data(
    data: &[u8],
    parsed: Result<ChannelData<'_>, ChannelDataError>,
    classify: fn(&[u8]) -> Protocol,
    cut: Cut,
    numbers: RangeInclusive<u16>,
) {
    let Some((&[n0, n1, l0, l1], rest)) = data.split_first_chunk() else {
        assert_eq!(parsed, Err(ChannelDataError::Truncated));
        return;
    };
    let (number, length) = (u16::from_be_bytes([n0, n1]), usize::from(u16::from_be_bytes([l0, l1])));
    assert_eq!(numbers.contains(&number), classify(data) == Protocol::ChannelData);
    match parsed {
        Ok(parsed) => {
            assert!(numbers.contains(&number));
            assert_eq!((parsed.channel.get(), parsed.data), (number, &rest[..length]));
            assert_eq!(ChannelData::header(parsed.channel, length), Some([n0, n1, l0, l1]));
            match cut(data).unwrap() {
                FrameLen::Complete { frame, .. } => assert_eq!(frame, CHANNEL_HEADER_LEN + length),
                FrameLen::NeedMore(needed) => assert_eq!(needed, padded(CHANNEL_HEADER_LEN + length)),
            }
        }
        Err(ChannelDataError::Truncated) => assert!(numbers.contains(&number) && rest.len() < length),
        Err(ChannelDataError::InvalidChannel) => assert!(!numbers.contains(&number)),
        Err(other) => panic!("{other}"),
    }
}
