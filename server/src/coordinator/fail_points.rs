//! The coordinator's fail points: the steps of a repair, of a move and of what trims their traces.

use crate::fail_point::points;

points! {
    /// How far the coordinator has come with a repair. Each name says what is done by then.
    pub FailPoint {
        /// A server is on record as lost.
        LossNoted = "loss-noted",
        /// The stripes of servers that went, or are drained, are in the ledger.
        AbsenceNoted = "absence-noted",
        /// Stripes with bad or missing shards are in the ledger.
        DeficitsNoted = "deficits-noted",
        /// A repair has its lease.
        LeaseBegun = "lease-begun",
        /// What it intends is on record.
        IntentRecorded = "intent-recorded",
        /// The order is on its way, or being followed.
        OrderSent = "order-sent",
        /// The target has answered, and nothing is booked.
        AnswerReceived = "answer-received",
        /// What was made is in the catalog.
        RepairBooked = "repair-booked",
        /// The lease is over.
        LeaseEnded = "lease-ended",
        /// The ledger says what became of it.
        TryNoted = "try-noted",
        /// What is whole is struck out of the ledger.
        LedgerSettled = "ledger-settled",
        /// A move has its lease.
        MoveBegun = "move-begun",
        /// What was moved is in the catalog, in both places.
        MoveBooked = "move-booked",
        /// The lease of the move is over.
        MoveEnded = "move-ended",
        /// The copy that stays was read to its last byte.
        KeptChecked = "kept-checked",
        /// The one that goes is struck out, and to be trashed.
        SurplusStruckOut = "surplus-struck-out",
        /// It is on record that the order to trash leaves now.
        TrashNoted = "trash-noted",
        /// The server has answered that order.
        TrashAnswered = "trash-answered",
        /// What it trashed is forgotten.
        TrashBooked = "trash-booked",
    }
}
