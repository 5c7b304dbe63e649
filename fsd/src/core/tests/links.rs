//! Hard links that the host adds and takes away beneath files that the branch has changed.

use super::*;

fn mode(perm: u32) -> SetAttr {
    SetAttr {
        perm: Some(perm),
        ..SetAttr::default()
    }
}

#[test]
fn a_link_that_the_host_adds_goes_without_the_branchs_file() {
    for how in ["unlink", "over", "written", "moved", "later", "of two"] {
        let mut bench = Bench::new(|base| fs::write(base.join("x"), "base").unwrap());
        bench.write("x", 0, b"mine");
        let mut left = "x";
        if how == "moved" {
            bench.rename(("", "x"), ("", "x2")).unwrap();
            left = "x2";
        }
        fs::hard_link(bench.host("x"), bench.host("z")).unwrap();
        if how == "later" {
            bench.reopen(true);
        }
        let links = match how {
            "over" => {
                bench.create("", "t", b"t");
                bench.rename(("", "t"), ("", "z")).unwrap();
                1
            }
            "written" => {
                bench.write("z", 0, b"mine");
                bench.unlink("", "z");
                1
            }
            "of two" => {
                fs::hard_link(bench.host("x"), bench.host("y")).unwrap();
                bench.walk("y").unwrap();
                bench.unlink("", "z");
                2
            }
            _ => {
                bench.unlink("", "z");
                1
            }
        };
        for clean in [false, true] {
            assert_eq!(bench.walk(left).unwrap().nlink, links, "{how}");
            assert_eq!(bench.read(left), b"mine", "{how}");
            assert_eq!(bench.damage(), Vec::<String>::new(), "{how}");
            bench.reopen(clean);
        }
        bench.unlink("", left);
        if how == "of two" {
            bench.unlink("", "y");
        }
        assert_eq!(bench.damage(), Vec::<String>::new(), "{how}");
        assert!(!bench.names("").contains(&left.to_owned()));
    }
}

#[test]
fn a_large_file_is_read_by_whichever_of_its_names_the_host_still_has() {
    for is_anew in [false, true] {
        let mut bench = Bench::new(|base| {
            fs::write(base.join("x"), vec![b'B'; 3 << 20]).unwrap();
            fs::hard_link(base.join("x"), base.join("y")).unwrap();
        });
        bench.walk("y").unwrap();
        bench.walk("x").unwrap();
        bench.write("x", 0, b"mine");
        bench.reopen(true);
        match is_anew {
            true => bench.save_anew("x", "another"),
            false => fs::remove_file(bench.host("x")).unwrap(),
        }
        for name in ["y", "x"] {
            let held = bench.read(name);
            assert_eq!(held.len(), 3 << 20);
            assert!(held.starts_with(b"mineBBBB"), "{name}");
        }
    }
}

/// Counting them anew for each change would take the square of their number.
#[test]
fn names_are_counted_once_and_rightly() {
    let mut bench = Bench::new(|base| {
        for dir in ["a", "b", "c"] {
            fs::create_dir(base.join(dir)).unwrap();
        }
        for k in 0..30 {
            fs::write(base.join(format!("a/{k}")), "x").unwrap();
            for dir in ["b", "c"] {
                let from = base.join(format!("a/{k}"));
                fs::hard_link(from, base.join(format!("{dir}/{k}"))).unwrap();
            }
        }
    });
    let change = |bench: &Bench, dir: &str| {
        for k in 0..30 {
            let ino = bench.walk(&format!("{dir}/{k}")).unwrap().ino;
            bench.core().setattr(&ME, ino, None, &mode(0o600)).unwrap();
        }
    };
    change(&bench, "a");
    bench.reopen(true);
    change(&bench, "b");
    for k in 0..10 {
        bench.unlink("a", &k.to_string());
        let (from, to) = (format!("1{k}"), format!("2{k}"));
        bench.rename(("a", &from), ("a", &to)).unwrap();
        bench.rename(("b", &to), ("c", &format!("n{k}"))).unwrap();
    }
    change(&bench, "c");
    let core = bench.core();
    let tree = crate::sync::lock(&core.tree);
    assert_eq!(tree.names.check(&tree.branch), 1);
}
