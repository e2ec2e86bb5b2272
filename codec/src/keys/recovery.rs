//! The recovery key: 32 random bytes that open a vault, in a form to be written down.

use zeroize::Zeroizing;

use crate::{Error, Result};

/// What the text of a recovery key begins with; a passphrase prompt knows it by that.
const PREFIX: &str = "ARCKEY";
/// Crockford's alphabet: no I, L, O and U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const KEY_BYTES: usize = 32;
/// With them the digits come out even.
const CHECK_BYTES: usize = 3;
const DIGITS: usize = (KEY_BYTES + CHECK_BYTES) * 8 / 5;
const GROUP_DIGITS: usize = 4;

/// A key of 256 random bits. Its text is `ARCKEY-` and 14 groups of four digits in base 32,
/// the last of which check the others.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryKey(Zeroizing<[u8; KEY_BYTES]>);

impl RecoveryKey {
    /// A key from 32 fresh random bytes.
    pub fn new(random: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(random))
    }

    /// The bytes.
    pub(super) fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The text to be written down.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + DIGITS * 5 / 4));
        text.push_str(PREFIX);
        let bytes = self.0.iter().copied().chain(self.check());
        let (mut bits, mut held, mut digits) = (0_u32, 0, 0);
        for byte in bytes {
            bits = bits << 8 | u32::from(byte);
            held += 8;
            while held >= 5 {
                held -= 5;
                if digits % GROUP_DIGITS == 0 {
                    text.push('-');
                }
                text.push(char::from(ALPHABET[(bits >> held & 31) as usize]));
                digits += 1;
            }
            bits &= (1 << held) - 1;
        }
        text
    }

    /// Whether `text` begins as a recovery key does.
    pub fn is_meant_by(text: &str) -> bool {
        let start = text.trim_start().as_bytes().get(..PREFIX.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(PREFIX.as_bytes()))
    }

    /// Reads the text back: in capitals or not, with or without spaces and dashes, and with I
    /// or L for 1 and O for 0. An error says what is wrong with it, without any digit.
    pub fn from_text(text: &str) -> Result<Self> {
        let wrong = |why: String| Error::damaged("recovery key", why);
        if !Self::is_meant_by(text) {
            return Err(wrong(format!("it does not begin with {PREFIX}")));
        }
        let digits = text.trim_start()[PREFIX.len()..].chars();
        let mut out = Zeroizing::new([0; KEY_BYTES + CHECK_BYTES]);
        let (mut bits, mut held, mut count) = (0_u32, 0, 0);
        for c in digits.filter(|c| !c.is_whitespace() && *c != '-') {
            let c = match c.to_ascii_uppercase() {
                'I' | 'L' => '1',
                'O' => '0',
                c => c,
            };
            let group = count / GROUP_DIGITS + 1;
            let value = ALPHABET.iter().position(|&digit| char::from(digit) == c);
            let value = value.ok_or_else(|| wrong(format!("group {group} has no such digit")))?;
            bits = (bits << 5 | value as u32) & 0xfff;
            held += 5;
            if held >= 8 {
                held -= 8;
                let at = count * 5 / 8;
                let Some(byte) = out.get_mut(at) else { break };
                *byte = (bits >> held) as u8;
            }
            count += 1;
        }
        if count != DIGITS {
            return Err(wrong(format!("it has not {DIGITS} digits in {} groups", DIGITS / 4)));
        }
        let mut key = Self::new([0; KEY_BYTES]);
        key.0.copy_from_slice(&out[..KEY_BYTES]);
        if out[KEY_BYTES..] != key.check() {
            return Err(wrong("its last digits do not fit the others: one is mistyped".into()));
        }
        Ok(key)
    }

    fn check(&self) -> [u8; CHECK_BYTES] {
        let hash = blake3::derive_key("arc v0 recovery key check", self.0.as_slice());
        [hash[0], hash[1], hash[2]]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_has_one_text_and_many_spellings() {
        let key = RecoveryKey::new([0xa5; 32]);
        let text = key.to_text();
        assert_eq!(text.len(), 6 + 14 * 5);
        assert!(RecoveryKey::is_meant_by(&text));
        for spelling in [
            text.to_string(),
            text.to_lowercase(),
            text.replace('-', " "),
            format!("  {}\n", text.replace('-', "")),
            text.replace('1', "l").replace('0', "o"),
        ] {
            assert!(RecoveryKey::from_text(&spelling).unwrap() == key, "{spelling}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let text = RecoveryKey::new([7; 32]).to_text().to_string();
        assert!(!RecoveryKey::is_meant_by("correct horse"));
        assert!(!RecoveryKey::is_meant_by("ARC"));
        assert!(RecoveryKey::is_meant_by("arckey-"));
        for bad in ["", "correct horse", "ARCKEY", &text[..text.len() - 1], &text[1..]] {
            assert!(RecoveryKey::from_text(bad).is_err(), "{bad}");
        }
        assert!(RecoveryKey::from_text(&format!("{text}0")).is_err());
        assert!(RecoveryKey::from_text(&format!("{text}-{text}")).is_err());
        assert!(RecoveryKey::from_text(&format!("{}U", &text[..text.len() - 1])).is_err());
    }

    proptest! {
        #[test]
        fn keys_round_trip_and_a_wrong_digit_is_noticed(
            bytes: [u8; 32],
            at in 0..DIGITS,
            other in 0..31_usize,
        ) {
            let key = RecoveryKey::new(bytes);
            let text = key.to_text();
            prop_assert!(RecoveryKey::from_text(&text).unwrap() == key);
            let at = PREFIX.len() + 1 + at + at / GROUP_DIGITS;
            let mut wrong = text.as_bytes().to_vec();
            let digit = ALPHABET.iter().position(|digit| *digit == wrong[at]).unwrap();
            wrong[at] = ALPHABET[(digit + 1 + other) % 32];
            prop_assert!(RecoveryKey::from_text(std::str::from_utf8(&wrong).unwrap()).is_err());
        }

        #[test]
        fn any_text_may_come_as_a_key(text: String) {
            prop_assert!(RecoveryKey::from_text(&text).is_err());
            let prefixed = format!("ARCKEY-{text}");
            prop_assert!(RecoveryKey::from_text(&prefixed).is_err());
        }
    }
}
