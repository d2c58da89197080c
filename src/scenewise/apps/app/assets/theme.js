/** The remembered theme, set before the first paint so that the page does not flash. */
try {
  const theme = localStorage.getItem("scenewise.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // storage is switched off: the theme of the system
}
