//! The parts that protobuf is made of, written out. Must not know messages.

/// Appends a number.
pub(crate) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes that a number takes.
pub(crate) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends the key of a field: its number and how its value is written (0 number, 1 eight bytes,
/// 2 with its length before it).
pub(crate) fn key(out: &mut Vec<u8>, number: u32, form: u8) {
    varint(out, u64::from(number) << 3 | u64::from(form));
}

/// Appends a field of bytes.
pub(crate) fn text(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    key(out, number, 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Appends a field that is a number.
pub(crate) fn number(out: &mut Vec<u8>, field: u32, value: i64) {
    key(out, field, 0);
    varint(out, value.cast_unsigned());
}

/// Begins a value whose length is not known yet; what was returned closes it.
pub(crate) fn open(out: &mut Vec<u8>) -> usize {
    out.push(0);
    out.len()
}

/// Writes the length of what was appended since [`open`]. Most are short and fit where the place
/// was left; others are moved, which costs less than to measure first.
pub(crate) fn close(out: &mut Vec<u8>, at: usize) {
    let length = out.len() - at;
    if length < 0x80 {
        out[at - 1] = length as u8;
        return;
    }
    let more = varint_len(length as u64) - 1;
    out.resize(out.len() + more, 0);
    out.copy_within(at..at + length, at + more);
    let mut rest = length as u64;
    for byte in &mut out[at - 1..at + more] {
        *byte = rest as u8 | 0x80;
        rest >>= 7;
    }
    out[at + more - 1] &= 0x7f;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_before_what_they_measure() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 3_000_000] {
            let mut out = vec![7];
            let at = open(&mut out);
            out.resize(at + length, 9);
            close(&mut out, at);
            let mut expected = vec![7];
            varint(&mut expected, length as u64);
            assert_eq!(expected.len(), 1 + varint_len(length as u64));
            expected.resize(expected.len() + length, 9);
            assert!(out == expected, "{length}");
        }
    }
}
