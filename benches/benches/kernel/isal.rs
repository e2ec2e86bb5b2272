//! Intel ISA-L out of a shared library that is found at run time, so that nothing links to it.

#![allow(unsafe_code)]

use std::ffi::{CString, OsStr, c_char, c_int, c_void};
use std::mem::transmute;
use std::os::unix::ffi::OsStrExt;

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}
const RTLD_NOW: c_int = 2;

type InitTables = unsafe extern "C" fn(c_int, c_int, *const u8, *mut u8);
type EncodeData =
    unsafe extern "C" fn(c_int, c_int, c_int, *const u8, *const *const u8, *const *mut u8);

/// Its encoder, with tables for one matrix.
pub(crate) struct Isal {
    encode: EncodeData,
    tables: Vec<u8>,
    inputs: usize,
    outputs: usize,
}

impl Isal {
    /// Of the library at `path`, for `rows`.
    pub(crate) fn open(path: &OsStr, rows: &[Vec<u8>]) -> Self {
        let (inputs, outputs) = (rows[0].len(), rows.len());
        let path = CString::new(path.as_bytes()).unwrap();
        let mut tables = vec![0; 32 * inputs * outputs];
        // SAFETY: both strings end with a zero; the library's header gives the functions these
        // types, and its tables take 32 bytes for each coefficient.
        let encode = unsafe {
            let library = dlopen(path.as_ptr(), RTLD_NOW);
            assert!(!library.is_null(), "ISAL= is no shared library: {path:?}");
            let init = dlsym(library, c"ec_init_tables".as_ptr());
            let encode = dlsym(library, c"ec_encode_data".as_ptr());
            assert!(!init.is_null() && !encode.is_null(), "ISAL= is not ISA-L: {path:?}");
            let init = transmute::<*mut c_void, InitTables>(init);
            let matrix = rows.concat();
            init(inputs as c_int, outputs as c_int, matrix.as_ptr(), tables.as_mut_ptr());
            transmute::<*mut c_void, EncodeData>(encode)
        };
        Self { encode, tables, inputs, outputs }
    }

    /// Fills `parity`.
    pub(crate) fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) {
        assert_eq!((data.len(), parity.len()), (self.inputs, self.outputs));
        let bytes = data[0].len();
        assert!(data.iter().all(|body| body.len() == bytes));
        assert!(parity.iter().all(|body| body.len() == bytes));
        let data: Vec<*const u8> = data.iter().map(|body| body.as_ptr()).collect();
        let parity: Vec<*mut u8> = parity.iter_mut().map(|body| body.as_mut_ptr()).collect();
        // SAFETY: counts are those of the tables, and all bodies have `bytes`.
        unsafe {
            (self.encode)(
                bytes as c_int,
                self.inputs as c_int,
                self.outputs as c_int,
                self.tables.as_ptr(),
                data.as_ptr(),
                parity.as_ptr(),
            );
        }
    }
}
