"""The hospital's side: acquisition (packs, shares, stores) and edge (opens the window, reconstructs, unpacks)."""
