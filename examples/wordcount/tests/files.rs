//! The library on files: writes one where a test should not, which a branch makes harmless.

#[test]
fn a_file_is_counted() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("sample.txt");
    std::fs::write(&path, "one fish two fish\nred fish blue fish\n").expect("write the sample");
    let text = std::fs::read_to_string(&path).expect("read the sample");
    assert_eq!(wordcount::top(&text, 1), [("fish".to_owned(), 4)]);
}
