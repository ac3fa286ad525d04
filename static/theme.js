// Sets the theme before the page is drawn, so that the page does not flash in another theme.

try {
  document.documentElement.dataset.theme = JSON.parse(localStorage.getItem("chinwag.theme") ?? '""');
} catch {
  // Without local storage the page uses the system's theme.
}
