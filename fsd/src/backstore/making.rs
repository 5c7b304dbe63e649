//! Objects of a live branch: their numbers, and how they are made, now or ahead, and removed.

use std::path::Path;
use std::time::Instant;

use super::branch::LiveBranch;
use super::error::StoreError;
use super::objects::{self, ObjectFile};
use super::spares::{ORDER, Place, Spare, Spares};
use crate::core::record::ObjectId;

impl LiveBranch {
    /// The name of the next object of the top layer, given out.
    pub(super) fn take_number(&mut self) -> Result<ObjectId, StoreError> {
        let top = self.top_mut()?;
        let id = ObjectId {
            layer: top.id,
            number: top.ledger.next_object,
        };
        top.ledger.next_object += 1;
        Ok(id)
    }

    /// Makes the directory that holds the object of this number in the top layer.
    pub(super) fn make_bucket(&mut self, number: u64) -> Result<(), StoreError> {
        let media = self.top_media()?;
        objects::make_bucket(&*media, number, |dir| self.dirty.dir(dir))
    }

    /// From now on makes objects ahead where many are needed, on a thread of its own.
    pub fn make_objects_ahead(&mut self) {
        match Spares::start() {
            Ok(spares) => self.spares = Some(spares),
            Err(error) => tracing::warn!(%error, "objects are made when they are needed"),
        }
    }

    /// Makes a new, empty object in the top layer, open for reading and writing. Its number was
    /// never given out before. Unless a commit names it, it is gone at the next opening.
    pub fn new_object(&mut self) -> Result<(ObjectId, Box<dyn ObjectFile>), StoreError> {
        let spare = self.spares.as_ref().and_then(Spares::take);
        let made = match spare {
            Some(spare) => spare,
            None => self.make_object()?,
        };
        self.order_spares()?;
        Ok(made)
    }

    fn make_object(&mut self) -> Result<Spare, StoreError> {
        let dirty = self.dirty.clone();
        let top = self.top_mut()?;
        let id = ObjectId {
            layer: top.id,
            number: top.ledger.next_object,
        };
        let start = Instant::now();
        let object = objects::create(&*top.media, id, |dir| dirty.dir(dir))?;
        let took = start.elapsed();
        top.ledger.next_object += 1;
        self.unnamed.insert(id.number);
        if self.pace.leaves(took) {
            self.change_bucket()?;
        }
        Ok((id, object))
    }

    /// Has objects made ahead, if files are made in a row and few are left.
    fn order_spares(&mut self) -> Result<(), StoreError> {
        let Some(mut spares) = self.spares.take() else {
            return Ok(());
        };
        self.forget_gone(&spares);
        let (more, elsewhere) = spares.wants(Instant::now());
        let ordered = match more {
            true => self.give_out(&spares, elsewhere),
            false => Ok(()),
        };
        self.spares = Some(spares);
        ordered
    }

    fn forget_gone(&mut self, spares: &Spares) {
        for number in spares.gone() {
            self.unnamed.remove(&number);
        }
    }

    fn give_out(&mut self, spares: &Spares, elsewhere: bool) -> Result<(), StoreError> {
        if elsewhere {
            self.change_bucket()?;
        }
        let dirty = self.dirty.clone();
        let top = self.top_mut()?;
        let first = top.ledger.next_object;
        let numbers = first..first + ORDER;
        top.ledger.next_object = numbers.end;
        let place = Place {
            media: top.media.clone(),
            layer: top.id,
            dirty,
        };
        self.unnamed.extend(numbers.clone());
        spares.order(&place, numbers);
        Ok(())
    }

    /// Removes the objects that were made ahead: the layer ends.
    pub(super) fn drop_spares(&mut self) -> Result<(), StoreError> {
        let Some(spares) = self.spares.take() else {
            return Ok(());
        };
        let made = spares.stop();
        self.forget_gone(&spares);
        self.spares = Some(spares);
        let media = self.top_media()?;
        for (id, file) in made {
            drop(file);
            match objects::remove(&*media, id.number) {
                Ok(()) => drop(self.unnamed.remove(&id.number)),
                // It goes with the others that nothing names.
                Err(e) => tracing::warn!(?id, error = %e, "cannot remove an unused object yet"),
            }
        }
        Ok(())
    }

    /// Goes on in the next directory of objects, which the host may put where files are quicker to make.
    pub(super) fn change_bucket(&mut self) -> Result<(), StoreError> {
        let top = self.top_mut()?;
        top.media.spread(Path::new(objects::OBJECTS_DIR));
        let next = objects::next_bucket(top.ledger.next_object);
        tracing::debug!(layer = ?top.id, next, "objects are slow to make: another directory");
        top.ledger.next_object = next;
        Ok(())
    }

    /// Removes an object of the top layer that nothing names any more. One that cannot be removed
    /// now goes at the next opening.
    pub fn remove_object(&mut self, id: ObjectId) {
        let Some((top, _)) = self.stack.split_top().filter(|(top, _)| top.id == id.layer) else {
            tracing::error!(?id, "asked to remove an object of a frozen layer");
            return;
        };
        match objects::remove(&*top.media, id.number) {
            Ok(()) => {
                top.ledger.orphans.remove(&id.number);
                self.unnamed.remove(&id.number);
                if let Some(account) = self.account() {
                    account.remove_object(id);
                }
            }
            Err(e) => tracing::warn!(?id, error = %e, "cannot remove an object yet"),
        }
    }
}
