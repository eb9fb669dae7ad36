//! Instructions of the kernel's virtual machine (RFC 9669), put together by hand: as many as the steering program uses.

/// A register. 0 is a call's result, 1 to 5 are its arguments, 6 to 9 survive it, 10 is the end of the stack.
pub(crate) type Register = u8;

/// An instruction as the kernel reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    opcode: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A place to jump to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label(usize);

/// How much a load or store moves; the value is its opcode for loads.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Width {
    /// Four bytes.
    Word = 0x61,
    /// Two bytes.
    Half = 0x69,
    /// One byte.
    Byte = 0x71,
}

/// A program that grows.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    code: Vec<Instruction>,
    places: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    /// A place that is bound later, with [`bind`](Self::bind).
    pub(crate) fn label(&mut self) -> Label {
        self.places.push(None);
        Label(self.places.len() - 1)
    }

    /// The next instruction is where `label` is.
    pub(crate) fn bind(&mut self, label: Label) {
        let place = &mut self.places[label.0];
        assert!(place.is_none(), "a label is bound once");
        *place = Some(self.code.len());
    }

    /// `to = *(from + offset)`
    pub(crate) fn load(&mut self, width: Width, to: Register, from: Register, offset: i16) {
        self.push(width as u8, to, from, offset, 0);
    }

    /// `*(to + offset) = from`
    pub(crate) fn store(&mut self, width: Width, to: Register, offset: i16, from: Register) {
        self.push(width as u8 + STORE_FROM_LOAD, to, from, offset, 0);
    }

    /// `to = from`
    pub(crate) fn copy(&mut self, to: Register, from: Register) {
        self.push(0xbf, to, from, 0, 0);
    }

    /// `to = value`
    pub(crate) fn set(&mut self, to: Register, value: i32) {
        self.push(0xb7, to, 0, 0, value);
    }

    /// `to += value`
    pub(crate) fn add(&mut self, to: Register, value: i32) {
        self.push(0x07, to, 0, 0, value);
    }

    /// `to += from`
    pub(crate) fn add_register(&mut self, to: Register, from: Register) {
        self.push(0x0f, to, from, 0, 0);
    }

    /// `to &= mask`
    pub(crate) fn and(&mut self, to: Register, mask: i32) {
        self.push(0x57, to, 0, 0, mask);
    }

    /// `to <<= bits`
    pub(crate) fn shift_left(&mut self, to: Register, bits: i32) {
        self.push(0x67, to, 0, 0, bits);
    }

    /// `to >>= bits`
    pub(crate) fn shift_right(&mut self, to: Register, bits: i32) {
        self.push(0x77, to, 0, 0, bits);
    }

    /// Turns the two bytes of a loaded field in network order into a number.
    pub(crate) fn network_half_to_number(&mut self, register: Register) {
        self.push(0xdc, register, 0, 0, 16);
    }

    /// `lock *(u64 *)to += from`
    pub(crate) fn atomic_add(&mut self, to: Register, from: Register) {
        self.push(0xdb, to, from, 0, 0);
    }

    /// `to =` the map of this descriptor.
    pub(crate) fn load_map(&mut self, to: Register, map: i32) {
        self.push(0x18, to, PSEUDO_MAP, 0, map);
        self.push(0, 0, 0, 0, 0);
    }

    /// `to =` where the first value of the array map of this descriptor is.
    pub(crate) fn load_map_value(&mut self, to: Register, map: i32) {
        self.push(0x18, to, PSEUDO_MAP_VALUE, 0, map);
        self.push(0, 0, 0, 0, 0);
    }

    /// Calls the kernel's function of this number.
    pub(crate) fn call(&mut self, function: i32) {
        self.push(0x85, 0, 0, 0, function);
    }

    /// Ends with what register 0 says.
    pub(crate) fn exit(&mut self) {
        self.push(0x95, 0, 0, 0, 0);
    }

    /// Goes on at `label`.
    pub(crate) fn jump(&mut self, label: Label) {
        self.jump_with(0x05, 0, 0, 0, label);
    }

    /// Goes on at `label` when `register == value`.
    pub(crate) fn jump_equal(&mut self, register: Register, value: i32, label: Label) {
        self.jump_with(0x15, register, 0, value, label);
    }

    /// Goes on at `label` when `register != value`.
    pub(crate) fn jump_unequal(&mut self, register: Register, value: i32, label: Label) {
        self.jump_with(0x55, register, 0, value, label);
    }

    /// Goes on at `label` when `register < value`.
    pub(crate) fn jump_below(&mut self, register: Register, value: i32, label: Label) {
        self.jump_with(0xa5, register, 0, value, label);
    }

    /// Goes on at `label` when `register > other`.
    pub(crate) fn jump_above_register(&mut self, register: Register, other: Register, to: Label) {
        self.jump_with(0x2d, register, other, 0, to);
    }

    /// The program, with its jumps.
    pub(crate) fn finish(mut self) -> Vec<Instruction> {
        for (from, label) in self.jumps {
            let to = self.places[label.0].expect("every label that is used is bound");
            let distance = to.checked_sub(from + 1).expect("loops are not wanted");
            self.code[from].offset = i16::try_from(distance).expect("the program is short");
        }
        self.code
    }

    fn jump_with(&mut self, opcode: u8, left: Register, right: Register, value: i32, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(opcode, left, right, 0, value);
    }

    fn push(&mut self, opcode: u8, to: Register, from: Register, offset: i16, immediate: i32) {
        let registers =
            if cfg!(target_endian = "little") { to | from << 4 } else { to << 4 | from };
        self.code.push(Instruction { opcode, registers, offset, immediate });
    }
}

/// The opcode of a store is that much above the one of the load of the same width.
const STORE_FROM_LOAD: u8 = 2;
/// `BPF_PSEUDO_MAP_FD`
const PSEUDO_MAP: Register = 1;
/// `BPF_PSEUDO_MAP_VALUE`
const PSEUDO_MAP_VALUE: Register = 2;

const _: () = assert!(size_of::<Instruction>() == 8);
