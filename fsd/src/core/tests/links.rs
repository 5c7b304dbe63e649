//! Hard links that the host adds and takes away beneath files that the branch has changed.

use super::*;

fn mode(perm: u32) -> SetAttr {
    SetAttr {
        perm: Some(perm),
        ..SetAttr::default()
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
