//! Products that are known when this is compiled.

/// The products of a constant with the lower halves of a byte, and with the upper ones.
pub(super) type Halves = [[u8; 16]; 2];

/// Those of every constant.
pub(super) static HALVES: [Halves; 256] = {
    let mut halves = [[[0; 16]; 2]; 256];
    let mut index = 0;
    while index < 256 * 16 {
        let (constant, half) = (index / 16, index % 16);
        halves[constant][0][half] = product(constant as u8, half as u8);
        halves[constant][1][half] = product(constant as u8, (half as u8) << 4);
        index += 1;
    }
    halves
};

/// `a` times `b` in the field.
pub(super) const fn product(a: u8, b: u8) -> u8 {
    let (mut a, mut sum, mut bit) = (a, 0, 0);
    while bit < 8 {
        if b >> bit & 1 != 0 {
            sum ^= a;
        }
        a = (a << 1) ^ if a & 0x80 != 0 { 0x1D } else { 0 };
        bit += 1;
    }
    sum
}
