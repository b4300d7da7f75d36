"""`darkroom serve-dicom`: between a modality or router and the PACS. Receives by C-STORE, denoises, sends on by C-STORE."""
