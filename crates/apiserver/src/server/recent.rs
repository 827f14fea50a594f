//! Protobuf of objects that were written a moment ago: a change goes to all
//! watches of a kind at once, and is encoded for the first of them. Few and
//! small ones are kept, so that memory does not grow with what is served.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use meta::{Object, Status};

/// Objects at most.
const SLOTS: usize = 256;
/// Bytes of one at most: larger ones are rare, and a copy of them is no small part of their cost.
const LARGEST: usize = 16 << 10;

/// An object and its bytes.
type Slot = Option<(Weak<Object>, Bytes)>;

/// What was written lately.
pub struct Recent {
    slots: Mutex<Box<[Slot]>>,
}

impl Default for Recent {
    fn default() -> Self {
        Recent {
            slots: Mutex::new(vec![None; SLOTS].into()),
        }
    }
}

impl Recent {
    /// The bytes of an object: kept ones, or those that `write` appends.
    pub fn bytes(
        &self,
        object: &Arc<Object>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), Status>,
    ) -> Result<Bytes, Status> {
        let address = Arc::as_ptr(object);
        // Addresses of allocations lie some hundred bytes apart.
        let at = (address as usize >> 5).wrapping_mul(0x9e37_79b9) >> 7 & (SLOTS - 1);
        {
            let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            // The weak reference holds the address: no other object can have it.
            if let Some((kept, bytes)) = &slots[at]
                && kept.as_ptr() == address
            {
                return Ok(bytes.clone());
            }
        }
        let mut out = Vec::with_capacity(2048);
        write(&mut out)?;
        let bytes = Bytes::from(out);
        if bytes.len() <= LARGEST {
            let kept = Some((Arc::downgrade(object), bytes.clone()));
            self.slots.lock().unwrap_or_else(PoisonError::into_inner)[at] = kept;
        }
        Ok(bytes)
    }

    /// Drops what belongs to objects that are gone.
    pub fn forget(&self) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        for slot in slots.iter_mut() {
            if slot.as_ref().is_some_and(|(object, _)| object.strong_count() == 0) {
                *slot = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_written_once_while_it_lives() {
        let recent = Recent::default();
        let object = || Arc::new(Object::from_json(r#"{"kind":"X","metadata":{"name":"n"}}"#).unwrap());
        let (one, mut written) = (object(), 0);
        for _ in 0..3 {
            let bytes = recent.bytes(&one, |out| {
                written += 1;
                out.push(7);
                Ok(())
            });
            assert_eq!(&bytes.unwrap()[..], [7]);
        }
        assert_eq!(written, 1);
        // Another object is never taken for one that is gone, wherever it lies.
        drop(one);
        for n in 0..1000 {
            let bytes = recent.bytes(&object(), |out| {
                out.extend_from_slice(&[1; 32][..n % 32]);
                Ok(())
            });
            assert_eq!(bytes.unwrap().len(), n % 32);
        }
        recent.forget();
        assert!(recent.slots.lock().unwrap().iter().all(Option::is_none));
        let huge = recent.bytes(&object(), |out| {
            out.resize(LARGEST + 1, 0);
            Ok(())
        });
        assert_eq!(huge.unwrap().len(), LARGEST + 1);
        assert!(recent.slots.lock().unwrap().iter().all(Option::is_none));
    }
}
