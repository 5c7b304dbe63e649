//! Where a repair puts what it takes out: `lost+found/LAYER/` of the store. Nothing is ever written
//! over there, and nothing of a layer goes anywhere else.

use std::io;
use std::path::{Path, PathBuf};

use super::places::LOST_FOUND;
use crate::backstore::error::StoreError;
use crate::backstore::journal::keep_tail;
use crate::backstore::layer;
use crate::backstore::media::{OpenMode, write_all_at};
use crate::backstore::objects;
use crate::backstore::store::{Store, layer_dir};
use crate::core::record::LayerId;

/// Names tried for one thing before the directory is called full.
const NAMES_MAX: u32 = 10_000;

/// Keeps what is taken out of one layer, or (`None`) of the store's own files.
#[derive(Debug)]
pub struct Keeper<'a> {
    store: &'a Store,
    layer: Option<LayerId>,
}

impl<'a> Keeper<'a> {
    pub fn new(store: &'a Store, layer: Option<LayerId>) -> Self {
        Self { store, layer }
    }

    fn dir(&self) -> Result<PathBuf, StoreError> {
        let top = PathBuf::from(LOST_FOUND);
        let mut made = self.store.mkdir_if_missing(&top)?;
        let dir = match self.layer {
            Some(id) => top.join(layer::dir_name(id)),
            None => top.clone(),
        };
        if self.layer.is_some() {
            made |= self.store.mkdir_if_missing(&dir)?;
        }
        if made {
            self.store.sync_dir(&top)?;
            self.store.sync_dir(Path::new(""))?;
        }
        Ok(dir)
    }

    /// A free place for something called `name`.
    fn place(&self, name: &str) -> Result<PathBuf, StoreError> {
        let dir = self.dir()?;
        for n in 0..NAMES_MAX {
            let path = match n {
                0 => dir.join(name),
                n => dir.join(format!("{name}.{n}")),
            };
            match self.store.media.facts(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(path),
                Err(e) => return Err(self.store.io("look at", &path, e)),
                Ok(_) => {}
            }
        }
        Err(StoreError::Invalid("no free name is left in lost+found"))
    }

    fn inside(&self, file: &Path) -> PathBuf {
        match self.layer {
            Some(id) => layer_dir(id).join(file),
            None => file.to_owned(),
        }
    }

    /// Keeps a copy of what a file holds from `offset` on; says where. `None`: there was nothing.
    pub fn copy(
        &self,
        file: &Path,
        offset: u64,
        name: &str,
    ) -> Result<Option<PathBuf>, StoreError> {
        let from = self.inside(file);
        match self.store.media.facts(&from) {
            Ok(facts) if facts.len > offset => {}
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(self.store.io("look at", &from, e));
            }
            _ => return Ok(None),
        }
        let to = self.place(name)?;
        keep_tail(&*self.store.media, &from, offset, &to)?;
        Ok(Some(self.store.media.describe(&to)))
    }

    /// Moves a file there; says where.
    pub fn take(&self, file: &Path, name: &str) -> Result<PathBuf, StoreError> {
        let (from, to) = (self.inside(file), self.place(name)?);
        self.store
            .media
            .rename(&from, &to, false)
            .map_err(|e| self.store.io("move away", &from, e))?;
        self.store.sync_dir(to.parent().unwrap_or(Path::new("")))?;
        Ok(self.store.media.describe(&to))
    }

    /// Moves an object there; `None` if there is none.
    pub fn take_object(&self, number: u64) -> Result<Option<PathBuf>, StoreError> {
        let path = objects::path_of(number);
        match self.store.media.facts(&self.inside(&path)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.store.io("look at", &self.inside(&path), e)),
            Ok(_) => {}
        }
        self.take(&path, &format!("object.{number}")).map(Some)
    }

    /// Writes a note there.
    pub fn note(&self, name: &str, text: &str) -> Result<PathBuf, StoreError> {
        let to = self.place(name)?;
        let written = (|| {
            let file = self.store.media.open(&to, OpenMode::CreateNew)?;
            write_all_at(&*file, text.as_bytes(), 0)?;
            file.sync(true)
        })();
        written.map_err(|e| self.store.io("write", &to, e).while_writing())?;
        Ok(self.store.media.describe(&to))
    }
}
