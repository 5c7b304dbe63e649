use agentfs_fsd::backstore::*;
use agentfs_fsd::core::types::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let s = Store::open_or_create(a[1].as_ref()).unwrap();
    s.create_branch(
        &BranchName::new(&a[2]).unwrap(),
        None,
        NewBranch {
            workspace: "/".into(),
        },
    )
    .unwrap();
}
