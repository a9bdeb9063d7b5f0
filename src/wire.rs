//! Bounded little-endian reading and writing: how binary formats meet bytes.
//!
//! A [`Reader`] never reads past its slice and never trusts a count: a length is checked against what is left before
//! anything is allocated for it.

/// Why bytes could not be read; the format that reads them says whose bytes they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireError(pub String);

impl From<&str> for WireError {
    fn from(why: &str) -> WireError {
        WireError(why.into())
    }
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

type Result<T> = std::result::Result<T, WireError>;

/// Takes values off the front of a slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from the front.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        if count > self.rest.len() {
            return Err(WireError(format!("{count} bytes wanted, {} left", self.rest.len())));
        }
        let (head, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(N)?);
        Ok(out)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A LEB128 number in its shortest spelling.
    pub fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
                return Err("a number that is too large or not in its shortest form".into());
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number of more than 64 bits".into())
    }

    /// A count of things that take at least `least_bytes` each; never more than can be left.
    pub fn count(&mut self, least_bytes: usize) -> Result<usize> {
        let count = self.varint()?;
        match usize::try_from(count) {
            Ok(count) if count <= self.left() / least_bytes.max(1) => Ok(count),
            _ => Err(WireError(format!("a count of {count} with {} bytes left", self.left()))),
        }
    }

    /// A byte string behind its length.
    pub fn counted(&mut self) -> Result<&'a [u8]> {
        let count = self.count(1)?;
        self.bytes(count)
    }

    /// A UTF-8 string behind its length in bytes.
    pub fn str(&mut self) -> Result<&'a str> {
        std::str::from_utf8(self.counted()?).map_err(|_| "text that is not UTF-8".into())
    }

    /// Everything was read.
    pub fn end(self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(WireError(format!("{} bytes too many", self.rest.len()))) }
    }
}

/// Appends values to a vector; the inverse of [`Reader`].
pub trait Write {
    /// Bytes as they are.
    fn put(&mut self, bytes: &[u8]);
    /// One byte.
    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }
    /// Two bytes.
    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }
    /// Four bytes.
    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }
    /// Eight bytes.
    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }
    /// A LEB128 number.
    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.put_u8(value as u8);
    }
    /// A byte string behind its length.
    fn put_counted(&mut self, bytes: &[u8]) {
        self.put_varint(bytes.len() as u64);
        self.put(bytes);
    }
}

impl Write for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(value: u64, text: String) {
            let mut bytes = Vec::new();
            bytes.put_varint(value);
            bytes.put_u64(value);
            bytes.put_counted(text.as_bytes());
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint().unwrap(), value);
            prop_assert_eq!(reader.u64().unwrap(), value);
            prop_assert_eq!(reader.str().unwrap(), &text);
            reader.end().unwrap();
        }

        #[test]
        fn any_bytes_are_one_spelling_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = Reader::new(&bytes);
            if let Ok(value) = reader.varint() {
                let mut again = Vec::new();
                again.put_varint(value);
                prop_assert_eq!(&again[..], &bytes[..bytes.len() - reader.left()]);
            }
        }
    }

    #[test]
    fn a_count_is_never_more_than_can_be_left() {
        let mut bytes = Vec::new();
        bytes.put_varint(u64::MAX);
        bytes.extend([0; 100]);
        assert!(Reader::new(&bytes).counted().is_err());
        assert!(Reader::new(&[11, 0, 0, 0]).count(1).is_err());
        assert_eq!(Reader::new(&[3, 0, 0, 0]).count(1), Ok(3));
    }
}
