//! Files that mean harm, or that only their writer could mean: what they are and what must be
//! said of each.

use super::{
    Entry, end, file, floats, int, ints, one, pickle, storage, storage_id, tensor, text, zip,
};

/// What it is, the file, and words that the error must have.
pub(crate) type Case = (&'static str, Vec<u8>, &'static str);

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    [code(), objects(), shapes(), bombs(), broken(), zips(), zip_ends(), legacy()].concat()
}

/// Pickles that run something when Python opens them.
fn code() -> Vec<Case> {
    let runs =
        |global: &[u8], argument: &str| file(&pickle(&[global, b"(", &text(argument), b"tR"]));
    let stack = |module: &str, name: &str| [text(module), text(name), vec![0x93]].concat();
    let inner = pickle(&[b"cos\nsystem\n(", &text("id"), b"tR"]);
    vec![
        ("os.system by GLOBAL", runs(b"cos\nsystem\n", "id"), "`os.system`"),
        ("posix.system by GLOBAL", runs(b"cposix\nsystem\n", "id"), "`posix.system`"),
        ("os.system by STACK_GLOBAL", runs(&stack("os", "system"), "id"), "`os.system`"),
        ("nt.system by STACK_GLOBAL", runs(&stack("nt", "system"), "dir"), "`nt.system`"),
        ("builtins.eval", runs(b"cbuiltins\neval\n", "1"), "`builtins.eval`"),
        ("builtins.exec", runs(b"cbuiltins\nexec\n", "1"), "`builtins.exec`"),
        ("builtins.getattr", runs(b"cbuiltins\ngetattr\n", "a"), "`builtins.getattr`"),
        ("__builtin__.eval of Python 2", runs(b"c__builtin__\neval\n", "1"), "`__builtin__.eval`"),
        ("builtins.__import__", runs(b"cbuiltins\n__import__\n", "os"), "`builtins.__import__`"),
        ("subprocess.Popen", runs(b"csubprocess\nPopen\n", "id"), "`subprocess.Popen`"),
        (
            "a dotted name below torch",
            runs(&stack("torch", "_utils.os.system"), "id"),
            "`torch._utils.os.system`",
        ),
        ("torch.load inside", runs(b"ctorch\nload\n", "x.bin"), "`torch.load`"),
        ("torch.hub.load", runs(b"ctorch.hub\nload\n", "x"), "`torch.hub.load`"),
        (
            "numpy's reconstruct",
            runs(b"cnumpy.core.multiarray\n_reconstruct\n", "x"),
            "`numpy.core.multiarray._reconstruct`",
        ),
        (
            "a checkpoint with Lightning's callbacks",
            file(&pickle(&[
                b"}",
                &text("callbacks"),
                b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\ns",
            ])),
            "`pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint`",
        ),
        (
            "a name with line feeds and colours",
            runs(&stack("os\n\x1b[31m", "system"), "id"),
            "`os\\n\\u{1b}[31m.system`",
        ),
        (
            "a name of 10,000 letters",
            runs(&[&b"c"[..], &[b'x'; 10_000], b"\ny\n"].concat(), "id"),
            "xxxx…",
        ),
        (
            "os.system where the file begins",
            pickle(&[b"cos\nsystem\n(", &text("id"), b"tR"]),
            "`os.system`",
        ),
        (
            "os.system after the tensors",
            file(&pickle(&[
                b"}",
                &text("w"),
                &tensor(&floats(), 0, &[4], &[1]),
                b"s",
                b"cos\nsystem\n(",
                &text("id"),
                b"tR",
            ])),
            "`os.system`",
        ),
        ("os.system in attributes", file(&pickle(&[b"}cos\nsystem\nb"])), "`os.system`"),
        (
            "a second pickle after the first",
            file(&[pickle(&[b"}"]), inner].concat()),
            "bytes follow after its pickle",
        ),
    ]
}

/// Operations that make objects without naming a function to call.
fn objects() -> Vec<Case> {
    let one = |operations: &[u8]| file(&pickle(&[operations]));
    vec![
        ("INST", one(b"(ios\nsystem\n"), "INST"),
        ("OBJ", one(b"(ccollections\nOrderedDict\no"), "OBJ"),
        ("NEWOBJ", one(b"ccollections\nOrderedDict\n)\x81"), "NEWOBJ"),
        ("NEWOBJ_EX", one(b"ccollections\nOrderedDict\n)}\x92"), "NEWOBJ_EX"),
        ("EXT1", one(b"\x82\x01"), "EXT1"),
        ("EXT4", one(b"\x84\x01\0\0\0"), "EXT4"),
        ("PERSID as text", one(b"Pstorage\n"), "PERSID"),
        ("an out-of-band buffer", one(b"\x97"), "NEXT_BUFFER"),
        ("a set", one(b"\x8f"), "EMPTY_SET"),
        ("BINPERSID of a number", one(b"K\x01Q"), "names a storage by an integer"),
        ("BINPERSID of a module", file(&pickle(&[b"(", &text("module"), b"NtQ"])), "`module`"),
        (
            "BINPERSID with too few fields",
            file(&pickle(&[b"(", &text("storage"), b"tQ"])),
            "never calls `storage`",
        ),
        ("REDUCE of a number", one(b"K\x01)R"), "calls an integer"),
        ("REDUCE of a dictionary", one(b"})R"), "calls a dictionary"),
        ("REDUCE without arguments", one(b"ccollections\nOrderedDict\nNR"), "with None"),
        (
            "REDUCE of OrderedDict with items",
            one(b"ccollections\nOrderedDict\n(]tR"),
            "never calls `OrderedDict` with (a list)",
        ),
        ("REDUCE of a class of storages", one(b"ctorch\nFloatStorage\n)R"), "`torch.Storage`"),
        ("_codecs.encode of a number", one(b"c_codecs\nencode\n(K\x01K\x02tR"), "_codecs.encode"),
        (
            "_rebuild_from_type_v2 of itself",
            one(b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._tensor\n_rebuild_from_type_v2\n\
                ctorch\nTensor\n)}tR"),
            "_rebuild_from_type_v2",
        ),
        (
            "BUILD of a tensor",
            file(&pickle(&[&tensor(&floats(), 0, &[4], &[1]), b"}b"])),
            "gives attributes",
        ),
        ("BUILD with a list", one(b"}]b"), "gives attributes"),
    ]
}

/// Tensors that do not fit their storage.
fn shapes() -> Vec<Case> {
    const FAR: i64 = i64::MAX;
    let of = |offset: i64, shape: &[i64], strides: &[i64]| {
        file(&one(&tensor(&floats(), offset, shape, strides)))
    };
    let id = |class: &str, key: &str, count: i64| {
        file(&one(&tensor(&storage_id(class, key, count), 0, &[4], &[1])))
    };
    let parts = ints(&[4]);
    let float_shape = [
        &b"ctorch._utils\n_rebuild_tensor_v2\n("[..],
        &floats(),
        &int(0),
        b"(G\x40\0\0\0\0\0\0\0t",
        &ints(&[1]),
        b"tR",
    ]
    .concat();
    let no_storage =
        [&b"ctorch._utils\n_rebuild_tensor_v2\n("[..], &int(0), &int(0), &parts, &parts, b"tR"]
            .concat();
    vec![
        ("a storage longer than its entry", id("FloatStorage", "0", 5), "5 F32 in 16 bytes"),
        ("a storage shorter than its entry", id("FloatStorage", "0", 3), "3 F32 in 16 bytes"),
        ("a storage of another type", id("DoubleStorage", "0", 4), "4 F64 in 16 bytes"),
        ("a storage of 2^62 values", id("FloatStorage", "0", 1 << 62), "F32 in 16 bytes"),
        ("a storage of -1 values", id("FloatStorage", "0", -1), "length of a storage -1"),
        ("a storage that is not there", id("FloatStorage", "7", 4), "storage `7`"),
        (
            "a storage outside of the folder",
            id("FloatStorage", "../../etc/passwd", 4),
            "storage `../../etc/passwd`",
        ),
        ("an offset beyond the end", of(1, &[4], &[1]), "leaves its storage of 4"),
        ("an offset of -1", of(-1, &[4], &[1]), "offset -1"),
        ("an offset of 2^63 - 1", of(FAR, &[4], &[1]), "leaves its storage"),
        ("a negative stride", of(3, &[4], &[-1]), "stride -1"),
        ("a negative dimension", of(0, &[-4], &[1]), "dimension -4"),
        ("a stride beyond the end", of(0, &[2], &[4]), "leaves its storage"),
        ("strides that overflow", of(0, &[3, 3], &[FAR, FAR]), "leaves its storage"),
        ("a shape of 2^64 values", of(0, &[1 << 32, 1 << 32], &[1, 1]), "more values than can"),
        (
            "a shape of 2^64 times no value",
            of(0, &[1 << 32, 1 << 32, 0], &[1, 1, 1]),
            "more values than can",
        ),
        ("a tensor of 2^40 times one value", of(0, &[1 << 40], &[0]), "repeats its storage"),
        ("more dimensions than strides", of(0, &[2, 2], &[1]), "2 dimensions and 1 strides"),
        ("1,000 dimensions", of(0, &[1; 1000], &[1; 1000]), "1000 dimensions"),
        ("a shape of floats", file(&one(&float_shape)), "a float as dimension"),
        ("a tensor without a storage", file(&one(&no_storage)), "`_rebuild_tensor_v2`"),
        (
            "one tensor without a name",
            file(&pickle(&[&tensor(&floats(), 0, &[4], &[1])])),
            "a tensor without a name",
        ),
        ("the same storage in a thousand orders", orders(), "times the file"),
    ]
}

/// A storage of 256 values, transposed a thousand times.
fn orders() -> Vec<u8> {
    let mut operations = [
        &b"ctorch._utils\n_rebuild_tensor_v2\nq\0"[..],
        &storage_id("FloatStorage", "0", 256),
        b"q\x01",
        &ints(&[16, 16]),
        b"q\x02",
        &ints(&[1, 16]),
        b"q\x03}",
    ]
    .concat();
    for i in 0..1000 {
        operations.extend(text(&i.to_string()));
        operations.extend(b"h\0(h\x01K\0h\x02h\x03\x89NtRs");
    }
    zip(&[Entry::new("a/data.pkl", &pickle(&[&operations])), Entry::new("a/data/0", &[0; 1024])])
}

/// Small files that would like to be large ones.
fn bombs() -> Vec<Case> {
    let deep = |open: &[u8]| file(&pickle(&[&open.repeat(1_000_000)]));
    // Each list holds the one before it ten times.
    let mut lists = b"]q\0".to_vec();
    for i in 0..100_u8 {
        lists.extend([b']', b'q', i + 1, b'(']);
        lists.extend([b'h', i].repeat(10));
        lists.push(b'e');
    }
    // The same with dictionaries, which are walked.
    let mut dicts = b"}q\0".to_vec();
    for i in 0..100_u8 {
        dicts.extend([b'}', b'q', i + 1, b'(']);
        dicts.extend((0..10).flat_map(|key| [text(&key.to_string()), vec![b'h', i]].concat()));
        dicts.push(b'u');
    }
    let wide: Vec<u8> = [
        &b"}q\0}q\x01("[..],
        &(0..200_u8).flat_map(|key| [b'K', key, b'h', 0]).collect::<Vec<_>>(),
        b"u}q\x02(",
        &(0..200_u8).flat_map(|key| [b'K', key, b'h', 1]).collect::<Vec<_>>(),
        b"u}q\x03(",
        &(0..200_u8).flat_map(|key| [b'K', key, b'h', 2]).collect::<Vec<_>>(),
        b"u",
    ]
    .concat();
    let long_key = [&b"X\0\0\x10\0"[..], &vec![b'k'; 1 << 20], b"q\x01"].concat();
    let many_keys = [
        &b"}"[..],
        &long_key,
        b"K\x01s}q\x02",
        &(0..30_u8)
            .flat_map(|key| [b'K', key, b'}', b'h', 1, b'K', 1, b's', b's'])
            .collect::<Vec<_>>(),
    ]
    .concat();
    let arguments =
        [&b"("[..], &b"N".repeat(100_000), b"tq\0", b"ccollections\nOrderedDict\nh\0R"].concat();
    vec![
        ("a million lists in lists", deep(b"]("), "where there is none"),
        ("a million marks", deep(b"("), "where there is none"),
        (
            "a million tuples in tuples",
            file(&pickle(&[b")", &b"\x85".repeat(1_000_000)])),
            "it holds a tuple",
        ),
        (
            "a million lists in lists, closed",
            file(&pickle(&[&b"]".repeat(500_000), &b"a".repeat(499_999)])),
            "it holds a list",
        ),
        ("lists shared 10^100 times", file(&pickle(&[&lists])), "it holds a list"),
        ("dictionaries shared 10^100 times", file(&pickle(&[&dicts])), ""),
        ("dictionaries shared 8 million times", file(&pickle(&[&wide])), "names take more than"),
        ("a key of 1 MB used thirty times", file(&pickle(&[&many_keys])), "is a name of 10"),
        ("3 million operations", file(&pickle(&[&b"N".repeat(3_000_000)])), "operations"),
        (
            "a dictionary that holds itself",
            file(&pickle(&[b"}q\0", &text("a"), b"h\0s"])),
            "holds itself",
        ),
        ("a function with 100,000 arguments", file(&pickle(&[&arguments])), "100000 arguments"),
        ("text of 4 GB", file(&pickle(&[b"X\xff\xff\xff\xff"])), "cut off"),
        ("text of 2^64 - 1 bytes", file(&pickle(&[b"\x8d", &[0xff; 8]])), "cut off"),
        ("bytes of 2^63 bytes", file(&pickle(&[b"\x8e\0\0\0\0\0\0\0\x80"])), "cut off"),
        ("an integer of 4 GB", file(&pickle(&[b"\x8b\xff\xff\xff\xff"])), "cut off"),
        ("an integer of 255 bytes", file(&pickle(&[b"\x8a\xff", &[0x7f; 255]])), "an integer"),
        ("a memo at 4 billion", file(&pickle(&[b"}r\xff\xff\xff\xff"])), ""),
    ]
}

/// Pickles that are not well formed.
fn broken() -> Vec<Case> {
    let one = |operations: &[u8]| file(&pickle(&[operations]));
    vec![
        ("no pickle at all", file(b""), "cut off"),
        ("no end", file(b"\x80\x02}"), "cut off"),
        ("an empty stack", one(b""), "where there is none"),
        ("protocol 0", file(b"(dp0\n."), "protocol 2 to 5"),
        ("protocol 6", file(b"\x80\x06}."), "protocol 6"),
        ("an unknown operation", one(b"\xff"), "0xff"),
        ("a memo never kept", one(b"h\x07"), "recalls 7"),
        ("MEMOIZE of nothing", one(b"\x94"), "where there is none"),
        ("text that is no UTF-8", one(b"\x8c\x02\xff\xfe"), "not UTF-8"),
        ("a name without an end", file(b"\x80\x02cos"), "middle of a name"),
        ("STACK_GLOBAL of numbers", one(b"K\x01K\x02\x93"), "by an integer"),
        ("a key without a value", one(b"}(K\x01u"), "without a value"),
        ("SETITEM on a list", one(b"]K\x01K\x02s"), "adds items to a list"),
        ("APPEND to a dictionary", one(b"}K\x01a"), "adds items to a dictionary"),
        ("APPEND to nothing", one(b"K\x01a"), "where there is none"),
        ("a value below a mark", one(b"](K\x01a"), "where there is none"),
        (
            "two dictionaries of weights",
            one(b"}(\x8c\x0astate_dict}\x8c\x0astate_dict}u"),
            "`state_dict` twice",
        ),
        ("a name that clears the screen", one(b"}\x8c\x04\x1b[2JK\x01s"), "control characters"),
        ("a key that is a list", one(b"}]K\x01s"), "a list as a key"),
        ("the same key twice", one(b"}(\x8c\x01aK\x01\x8c\x01aK\x02u"), "`a` twice"),
        ("a list in place of a dictionary", one(b"]"), "it holds a list"),
        ("None in place of a dictionary", one(b"N"), "it holds None"),
        (
            "a big-endian machine",
            zip(&[Entry::new("a/data.pkl", &pickle(&[b"}"])), Entry::new("a/byteorder", b"big")]),
            "byte order `big`",
        ),
    ]
}

/// Zips whose entries lie.
fn zips() -> Vec<Case> {
    let sound = one(&tensor(&floats(), 0, &[4], &[1]));
    let changed = |change: &dyn Fn(&mut [Entry; 2])| {
        let mut entries = [Entry::new("a/data.pkl", &sound), Entry::new("a/data/0", &storage())];
        change(&mut entries);
        zip(&entries)
    };
    let also = |entry: Entry| {
        zip(&[Entry::new("a/data.pkl", &sound), Entry::new("a/data/0", &storage()), entry])
    };
    vec![
        ("two of one name", also(Entry::new("a/data.pkl", &pickle(&[b"}"]))), "twice"),
        ("two folders", also(Entry::new("b/data.pkl", &pickle(&[b"}"]))), "`b/data.pkl`"),
        ("a program of TorchScript", also(Entry::new("a/constants.pkl", b"")), "TorchScript"),
        ("no pickle", zip(&[Entry::new("cat.safetensors", b"")]), "`cat.safetensors`"),
        ("a pickle at another place", zip(&[Entry::new("data.pkl", b"")]), "`data.pkl`"),
        ("deflated", changed(&|entries| entries[1].method = 8), "compressed (method 8)"),
        (
            "a bomb: 16 bytes that unpack to 4 GB",
            changed(&|entries| {
                entries[0].method = 8;
                entries[0].sizes[1] = u32::MAX - 1;
            }),
            "compressed",
        ),
        ("encrypted", changed(&|entries| entries[1].flags = 1), "encrypted"),
        (
            "an entry longer than the file",
            changed(&|entries| {
                (entries[1].sizes, entries[1].local_sizes) = ([1 << 30; 2], [1 << 30; 2]);
            }),
            "outside of the file",
        ),
        ("sizes that differ", changed(&|entries| entries[1].local_sizes = [8; 2]), "its size"),
        (
            "two sizes of a stored entry",
            changed(&|entries| entries[1].sizes = [16, 15]),
            "to take 16",
        ),
        (
            "names that differ",
            changed(&|entries| entries[1].local_name = "a/data/1".into()),
            "its name",
        ),
        (
            "a place beyond the end",
            changed(&|entries| entries[1].shift = 1 << 30),
            "outside of the file",
        ),
        ("a place inside another entry", changed(&|entries| entries[1].shift = -7), "is no entry"),
        ("two that overlap", overlapping(), "overlap"),
        (
            "a 64-bit size without its field",
            changed(&|entries| entries[1].sizes = [u32::MAX; 2]),
            "sizes of `a/data/0` are missing",
        ),
        (
            "a 64-bit size of 2^63",
            changed(&|entries| {
                entries[1].sizes = [u32::MAX; 2];
                entries[1].extra =
                    [&[1, 0, 16, 0][..], &[0, 0, 0, 0, 0, 0, 0, 0x80].repeat(2)].concat();
            }),
            "its size",
        ),
        ("a name of nonsense", also(Entry::new("a/\u{1b}[2J", b"")), ""),
    ]
}

/// An entry whose data are a whole other entry, which the directory names, too.
fn overlapping() -> Vec<u8> {
    let inner = zip(&[Entry::new("a/data/0", &storage())]);
    let inner = &inner[..inner.len() - 22 - 46 - 8];
    let outer = Entry::new("a/data.pkl", inner);
    let mut second = Entry::new("a/data/0", &storage());
    // Back over its own place to the one inside the first.
    second.shift = -(inner.len() as i64);
    zip(&[outer, second])
}

/// Zips whose last record lies.
fn zip_ends() -> Vec<Case> {
    let sound = file(&one(&tensor(&floats(), 0, &[4], &[1])));
    let at = sound.len() - 22;
    let (body, tail) = sound.split_at(at);
    let directory = tail.to_vec();
    let size = u32::from_le_bytes(directory[12..16].try_into().expect("four"));
    let start = u32::from_le_bytes(directory[16..20].try_into().expect("four"));
    let with = |tail: Vec<u8>| [body, &tail].concat();
    let wide = |count: u64, size: u64, offset: u64, place: u64| {
        let mut tail = b"PK\x06\x06".to_vec();
        tail.extend(44_u64.to_le_bytes());
        tail.extend([0; 12]);
        for number in [count, count, size, offset] {
            tail.extend(number.to_le_bytes());
        }
        tail.extend(b"PK\x06\x07\0\0\0\0");
        tail.extend(place.to_le_bytes());
        tail.extend([1, 0, 0, 0]);
        tail.extend(end(u16::MAX, u32::MAX, u32::MAX));
        with(tail)
    };
    let (here, size_wide, start_wide) = (at as u64, u64::from(size), u64::from(start));
    vec![
        ("no directory", body.to_vec(), "cut off"),
        ("an empty zip", end(0, 0, 0), "an empty zip"),
        ("bytes after the end", [&sound[..], b"#!/bin/sh"].concat(), "9 bytes follow"),
        ("a directory elsewhere", with(end(2, size, start - 1)), "ends at"),
        ("a directory beyond the end", with(end(2, size, u32::MAX - 1)), "ends at"),
        ("a directory of no length", with(end(2, 0, start)), "ends at"),
        ("65,535 entries", with(end(65_535, size, start)), "65535 entries do not fit"),
        ("too few entries", with(end(1, size, start)), "after its 1 entries"),
        (
            "one disk of many",
            with([&directory[..4], &[1, 0], &directory[6..]].concat()),
            "one part of a zip",
        ),
        ("2^64 - 1 entries", wide(u64::MAX, size_wide, start_wide, here), "do not fit"),
        ("a 64-bit directory of 2^64 - 1 bytes", wide(2, u64::MAX, start_wide, here), "ends at"),
        ("a 64-bit directory at 2^63", wide(2, size_wide, 1 << 63, here), "ends at"),
        ("a 64-bit record elsewhere", wide(2, size_wide, start_wide, here - 1), "64-bit record"),
        (
            "a 64-bit record beyond the end",
            wide(2, size_wide, start_wide, u64::MAX),
            "64-bit record",
        ),
    ]
}

/// The format before the zip.
fn legacy() -> Vec<Case> {
    let magic = pickle(&[b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"]);
    let version = pickle(&[b"M\xe9\x03"]);
    let machine = pickle(&[b"}", &text("little_endian"), b"\x88s"]);
    let object = one(&tensor(&floats(), 0, &[4], &[1]));
    let keys = |keys: &[&str]| {
        let keys: Vec<u8> = keys.iter().flat_map(|key| text(key)).collect();
        pickle(&[b"](", &keys, b"e"])
    };
    let numbers = |count: i64| [&count.to_le_bytes()[..], &storage()].concat();
    let with = |parts: &[&[u8]]| [&[&magic[..], &version], parts].concat().concat();
    vec![
        ("a pickle of Python alone", pickle(&[b"}"]), "torch did not write"),
        ("another version", [&magic[..], &pickle(&[b"K\x01"])].concat(), "another version"),
        (
            "a big-endian machine, before the zip",
            with(&[&pickle(&[b"}", &text("little_endian"), b"\x89s"])]),
            "byte order `big`",
        ),
        (
            "a storage of another length, before the zip",
            with(&[&machine, &object, &keys(&["0"]), &numbers(5)]),
            "4 values and 5",
        ),
        (
            "a storage of -1 values, before the zip",
            with(&[&machine, &object, &keys(&["0"]), &numbers(-1)]),
            "4 values",
        ),
        (
            "a storage that is cut off",
            with(&[&machine, &object, &keys(&["0"]), &[4, 0]]),
            "cut off",
        ),
        ("no storage at all", with(&[&machine, &object, &keys(&[])]), "storage `0`"),
        (
            "a storage of no tensor",
            with(&[&machine, &object, &keys(&["0", "1"])]),
            "no tensor names",
        ),
        (
            "the same storage twice",
            with(&[&machine, &object, &keys(&["0", "0"])]),
            "storage `0` twice",
        ),
        ("keys that are no list", with(&[&machine, &object, &pickle(&[b"}"])]), "a dictionary"),
        (
            "a storage of 2^62 values, before the zip",
            with(&[
                &machine,
                &one(&tensor(&storage_id("FloatStorage", "0", 1 << 62), 0, &[4], &[1])),
                &keys(&["0"]),
            ]),
            "more than fit any file",
        ),
        (
            "a storage of 2^60 values, before the zip",
            with(&[
                &machine,
                &one(&tensor(&storage_id("FloatStorage", "0", 1 << 60), 0, &[4], &[1])),
                &keys(&["0"]),
            ]),
            "cut off",
        ),
    ]
}
